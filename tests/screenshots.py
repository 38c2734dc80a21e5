"""Take screenshots of the page during play: DIR/play.png; with --all also in light colours and on a phone.

PYTHONPATH=tests python tests/screenshots.py --out docs/images --checkpoint checkpoints/coinrun-nano
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playing import serving
from playwright.sync_api import Browser, Page, sync_playwright

from dreamrun import cli
from dreamrun.play.launch import PlayConfig

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@dataclass(frozen=True)
class ScreenshotConfig:
    """What to show, and where to write the pictures."""

    out: Path = Path("docs/images")
    checkpoint: str = PlayConfig.checkpoint
    data: Path = PlayConfig.data
    record: int = 0  # of the data set, which the dream starts from
    keys: str = "ArrowRight,ArrowUp"  # held down during play
    frames: int = 12  # generated frames before the screenshot
    all: bool = False  # also light colours, and a phone


@contextlib.contextmanager
def chromium(flags: tuple[str, ...] = FLAGS) -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(flags))
        yield browser
        browser.close()


def main(config: ScreenshotConfig) -> None:
    """Play, and take the screenshots."""
    if not CHROMIUM:
        raise ValueError("Chromium is not installed: run ./setup.sh --browser")
    play = PlayConfig(checkpoint=config.checkpoint, data=config.data, port=0)
    phone = {"viewport": PHONE, "device_scale_factor": 2, "has_touch": True}
    variants = {"play": {"viewport": DESKTOP, "color_scheme": "dark"}}
    if config.all:
        variants["play-light"] = {"viewport": DESKTOP, "color_scheme": "light"}
        variants |= {f"play-phone-{scheme}": {**phone, "color_scheme": scheme} for scheme in ("dark", "light")}
    config.out.mkdir(parents=True, exist_ok=True)
    with serving(play) as address, chromium() as browser:
        for name, options in variants.items():
            page = browser.new_page(**options)
            page.goto(address)
            _play(page, config)
            page.screenshot(path=config.out / f"{name}.png", full_page="phone" in name)
            print(f"wrote {config.out / name}.png")
            page.close()


def wait_for_phase(page: Page, phase: str) -> None:
    """Wait until the stage is in a phase: ready, playing, paused, idle, waiting, lost."""
    page.wait_for_selector(f".stage[data-phase={phase}]", timeout=60_000)


def _play(page: Page, config: ScreenshotConfig) -> None:
    wait_for_phase(page, "ready")
    page.click(f"#gallery button.thumbnail-item >> nth={config.record}")
    page.wait_for_selector(f"#details:has-text('record {config.record},')")
    page.check("#real input")
    page.wait_for_selector(".real:not([hidden])")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    for key in config.keys.split(","):
        page.keyboard.down(key)
    _wait(lambda: int(page.get_attribute(".stage", "data-frame")) >= config.frames)


def _wait(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise ValueError(f"no new frames within {seconds:g} seconds")
        time.sleep(0.02)


if __name__ == "__main__":
    cli.run(main, __doc__)
