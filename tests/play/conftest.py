"""The page in Debian's Chromium, driven by Playwright. `./setup.sh --browser` installs the browser.

Without a browser the tests of the page are skipped, unless DREAMRUN_BROWSER=required (as in .ci/run).
"""

import os

import pytest
from screenshots import CHROMIUM, DESKTOP, chromium, wait_for_phase

MISSING = "no Chromium: ./setup.sh --browser installs it"


@pytest.fixture(scope="session")
def browser():
    """A browser without a window."""
    if CHROMIUM is None and os.environ.get("DREAMRUN_BROWSER") != "required":
        pytest.skip(MISSING)
    assert CHROMIUM, MISSING
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, address):
    """visit(address, phase, **options of the browser): the page in a phase.

    Errors in the page fail the test, and requests to any other host.
    """
    contexts, errors = [], []

    def note_request(url, where):
        if not url.startswith((where, where.replace("http", "ws", 1), "blob:", "data:")):
            errors.append(f"requested {url}")

    def open_page(where=address, phase="ready", ignore_errors=False, **options):
        context = browser.new_context(**{"viewport": DESKTOP, "accept_downloads": True, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: note_request(request.url, where))
        page.on("websocket", lambda socket: note_request(socket.url, where))
        if not ignore_errors:
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(where)
        if phase is not None:
            wait_for_phase(page, phase)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors
