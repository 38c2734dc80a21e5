"""Sites of tiny networks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from static_server import serving_files

from dreamrun.export.runtime import ALL_FILES, VERSION, find_runtime
from dreamrun.export.site import SiteEntry, write_site


@pytest.fixture(scope="session")
def empty_runtime(tmp_path_factory) -> Path:
    """What looks like onnxruntime-web, for sites that are not opened."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in ALL_FILES:
        (folder / name).write_text(f"/*! ONNX Runtime Web v{VERSION} */")
    return folder


@pytest.fixture(scope="session")
def runtime() -> Path:
    """onnxruntime-web: from the cache, or from npm. Without both, tests are skipped as they are without a browser."""
    try:
        return find_runtime()
    except ValueError as error:
        if os.environ.get("DREAMRUN_BROWSER") == "required":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def custom_game(controls_config) -> SiteEntry:
    """A game of 96x64 pixels with buttons and axes, and a network of random weights."""
    return SiteEntry(Path(controls_config.checkpoint), controls_config.data)


@pytest.fixture(scope="session")
def pong_game(play_config) -> SiteEntry:
    """Pong, and a network of random weights."""
    return SiteEntry(Path(play_config.checkpoint), play_config.data)


@pytest.fixture(scope="session")
def web_root(tmp_path_factory, runtime, pong_game, custom_game) -> Path:
    """Two sites in sub-folders, once with the headers of an isolated page and once without."""
    root = tmp_path_factory.mktemp("web")
    for name, game in (("pong", pong_game), ("custom", custom_game)):
        folder = root / "plain" / name
        folder.mkdir(parents=True)
        write_site(folder, [game], f"My {name}", "fp32", runtime)
    (root / "isolated").symlink_to("plain")
    return root


@pytest.fixture(scope="module")
def page_address(web_root) -> Iterator[str]:
    """The address of a server of `web_root`, in place of a play server's."""
    with serving_files(web_root) as address:
        yield address
