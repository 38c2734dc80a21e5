"""What tests do on the page, and what they read from it."""

import re
import time
from collections.abc import Callable

import numpy as np
from playwright.sync_api import Page
from screenshots import wait_for_phase

GALLERY = "#gallery button.thumbnail-item"
REAL_GAME = "#real input[type=checkbox]"


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def note_errors(page: Page, address: str, ignore_errors: bool = False) -> list[str]:
    """A list that will hold the errors in a page, and its requests to other hosts than that of `address`."""
    errors: list[str] = []
    host = re.match("https?://[^/]*", address)[0]

    def note_request(url: str) -> None:
        if not url.startswith((host, host.replace("http", "ws", 1), "blob:", "data:")):
            errors.append(f"requested {url}")

    page.on("request", lambda request: note_request(request.url))
    page.on("websocket", lambda socket: note_request(socket.url))
    if not ignore_errors:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    return errors


def frame_number(page: Page) -> int:
    return int(page.get_attribute(".stage", "data-frame"))


def action(page: Page) -> str:
    return page.get_attribute(".stage", "data-action")


def picture(page: Page, name: str = "dream") -> np.ndarray:
    """The pixels of a canvas, uint8 (H, W, 4)."""
    script = "name => { const c = document.querySelector(`.${name}-canvas`);"
    script += "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data] }"
    return np.array(page.evaluate(script, name), np.uint8).reshape(64, 64, 4)


def hidden_text(page: Page, selector: str) -> list[dict]:
    """Boxes of an element's text that are not all visible: outside the window, or cut off by an element around it."""
    script = """selector => {
      const element = document.querySelector(selector), range = document.createRange();
      range.selectNodeContents(element);
      const clips = [{left: 0, top: 0, right: innerWidth, bottom: innerHeight}];
      for (let e = element; e !== document.body; e = e.parentElement)
        if (getComputedStyle(e).overflow !== "visible") clips.push(e.getBoundingClientRect());
      const boxes = [...range.getClientRects()];
      if (!boxes.length) return [{}];
      return boxes.filter(b => clips.some(c => b.left < c.left - 1 || b.top < c.top - 1
        || b.right > c.right + 1 || b.bottom > c.bottom + 1)).map(b => b.toJSON()) }"""
    return page.evaluate(script, selector)


def start_playing(page: Page, key: str = "ArrowUp") -> None:
    page.keyboard.press(key)
    wait_for_phase(page, "playing")


def pause(page: Page) -> None:
    """Pause, and wait for the frames that were on their way."""
    page.click("#pause")
    wait_for_phase(page, "paused")
    time.sleep(0.4)


def record(page: Page, play: Callable[[], None]) -> None:
    """Record while `play` plays, and wait until the recording is shown."""
    page.click("#record")
    page.wait_for_selector("#record:has-text('Stop')")
    play()
    page.click("#record")
    page.wait_for_selector("#download-mp4")


def download(page: Page, selector: str, path) -> None:
    with page.expect_download() as event:
        page.click(selector)
    event.value.save_as(path)


def upload_image(page: Page, path) -> None:
    """Choose a file as the player's own picture."""
    if page.locator("#image button[aria-label='Clear']").count():
        page.click("#image button[aria-label='Clear']")
    page.set_input_files("#image input[type=file]", path)
