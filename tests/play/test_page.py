"""The page in Debian's Chromium, driven by Playwright. `./setup.sh --browser` installs the browser.

Without a browser these tests are skipped, unless DREAMRUN_BROWSER=required (as in .ci/run).
"""

import json
import os
import time
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image
from playing import make_custom_game, serving
from screenshots import CHROMIUM, DESKTOP, PHONE, chromium
from tiny import CONTROLS

from data.actions import UNCONDITIONAL
from model import WorldModel
from play.gallery import Gallery
from play.launch import PlayConfig
from play.replay import Replay
from training.device import choose_device, prepare_for_inference

MISSING = "no Chromium: ./setup.sh --browser installs it"

pytestmark = pytest.mark.skipif(CHROMIUM is None and os.environ.get("DREAMRUN_BROWSER") != "required", reason=MISSING)


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, MISSING
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def config(play_config):
    """The game's own frame rate, and two places."""
    return replace(play_config, fps=None, num_steps=1, max_players=2)


@pytest.fixture(scope="module")
def address(config):
    with serving(config) as address:
        yield address


@pytest.fixture
def visit(browser, address):
    """visit(**options of the browser): the page, ready to play. Errors in the page fail the test."""
    contexts, errors = [], []

    def check(url, where):
        if not url.startswith((where, "blob:", "data:")):
            errors.append(f"asked {url}")

    def open_page(where=address, phase="ready", **options):
        context = browser.new_context(**{"viewport": DESKTOP, "accept_downloads": True, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: check(request.url, where))
        page.goto(where)
        page.wait_for_selector(f"body[data-phase={phase}]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def wait_until(condition, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def frame_number(page) -> int:
    return int(page.get_attribute("body", "data-frame"))


def action(page) -> str:
    return page.get_attribute("body", "data-action")


def picture(page, name: str = "dream") -> np.ndarray:
    """The pixels of a canvas, uint8 (H, W, 4)."""
    script = "id => { const c = document.getElementById(id);"
    script += "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data] }"
    return np.array(page.evaluate(script, name), np.uint8).reshape(64, 64, 4)


def start_playing(page, key: str = "ArrowUp") -> None:
    page.keyboard.press(key)
    page.wait_for_selector("body[data-phase=playing]")


def test_the_page_loads_and_shows_the_prompt(visit, pong_set):
    page = visit()
    assert page.title() == "Dreamrun: play the dream"
    assert "pong" in page.inner_text("#game") and page.locator("#gallery button").count() == 3
    assert picture(page)[..., :3].std() > 5 and frame_number(page) == 0
    assert "to start" in page.inner_text("#overlay") and page.inner_text("#pad").split() == ["↓", "down", "↑", "up"]


def test_buttons_and_axes_can_be_held_together(visit, tmp_path):
    data, checkpoint = make_custom_game(tmp_path, CONTROLS)
    with serving(PlayConfig(checkpoint=str(checkpoint), data=data, port=0, num_steps=1)) as address:
        page = visit(address)
        assert "dx-" in page.inner_text("#pad") and page.locator("#pad .key").count() == 9
        for key in ("d", " ", "j"):
            page.keyboard.down(key)
        wait_until(lambda: action(page) == "right+jump+dx")
        held_keys = page.locator("#pad .key.held").all_inner_texts()
        assert [text.split()[-1] for text in held_keys] == ["right", "jump", "dx-"]
        page.keyboard.up("d")
        wait_until(lambda: action(page) == "jump+dx")


def test_a_model_without_actions_can_be_watched(visit, tmp_path):
    data, checkpoint = make_custom_game(tmp_path, UNCONDITIONAL)
    with serving(PlayConfig(checkpoint=str(checkpoint), data=data, port=0, num_steps=1)) as address:
        page = visit(address)
        assert "has no keys" in page.inner_text("#overlay") and "without actions" in page.inner_text("#hint")
        page.click("#overlay button")
        wait_until(lambda: frame_number(page) > 3)


def test_a_key_acts_from_press_to_release(visit):
    page = visit()
    before = picture(page)
    page.keyboard.down("ArrowUp")
    wait_until(lambda: frame_number(page) >= 5 and action(page) == "up")
    assert np.abs(picture(page).astype(int) - before).max() > 10
    assert "held" in page.get_attribute("[data-key=UP]", "class")
    page.keyboard.up("ArrowUp")
    wait_until(lambda: action(page) == "noop")
    page.keyboard.down("s")
    wait_until(lambda: action(page) == "down")
    page.keyboard.down("ArrowUp")  # both are held: the newer one acts
    wait_until(lambda: action(page) == "up")
    page.keyboard.up("ArrowUp")
    wait_until(lambda: action(page) == "down")
    page.evaluate("dispatchEvent(new Event('blur'))")  # another window gets the focus
    wait_until(lambda: action(page) == "noop")
    wait_until(lambda: "ms" in page.inner_text("#meter-delay") and page.inner_text("#meter-fps")[0].isdigit())


def test_keys_change_the_frames(visit):
    page = visit()
    page.click("details summary")
    page.fill("#seed", "7")

    def generate(key):
        page.click("#restart")
        page.wait_for_selector("body[data-phase=ready]")
        page.wait_for_selector("body[data-frame='0']")
        page.click("#pause")
        page.wait_for_selector("body[data-phase=playing]")
        page.keyboard.down(key)
        wait_until(lambda: frame_number(page) >= 12)
        page.keyboard.up(key)
        return picture(page).astype(int)

    assert np.abs(generate("ArrowUp") - generate("ArrowDown")).max() > 10


def test_pause_single_steps_and_starting_over_by_keyboard(visit):
    page = visit()
    start_playing(page)
    page.keyboard.press("p")
    page.wait_for_selector("body[data-phase=paused]")
    time.sleep(0.4)
    number = frame_number(page)
    page.keyboard.press("n")
    wait_until(lambda: frame_number(page) == number + 1)
    time.sleep(0.3)
    assert frame_number(page) == number + 1
    page.keyboard.press("r")
    page.wait_for_selector("body[data-frame='0'][data-phase=ready]")


def test_all_controls_have_names_and_can_be_reached_by_keyboard(visit):
    page = visit()
    reached, focused = set(), "(e => e.id || e.dataset.key || e.tagName)(document.activeElement)"
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(focused))
    assert {"UP", "DOWN", "SUMMARY"} <= reached
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, select, canvas[role=img]')].filter(x =>
           !x.ariaLabel && !x.labels?.length && !x.textContent.trim()).map(x => x.outerHTML)"""
    )
    assert nameless == []
    page.focus("[data-key=UP]")
    page.keyboard.down(" ")  # space holds the key that has the focus
    wait_until(lambda: action(page) == "up" and frame_number(page) > 0)
    page.keyboard.up(" ")
    wait_until(lambda: action(page) == "noop")


def test_a_recording_is_downloaded_and_replayed(visit, config, tmp_path):
    page = visit()
    start_playing(page)
    page.click("#record")
    page.wait_for_selector("#record[aria-pressed=true]")
    first = frame_number(page)
    page.keyboard.down("ArrowDown")
    wait_until(lambda: frame_number(page) >= first + 8)
    page.keyboard.up("ArrowDown")
    page.click("#record")
    page.wait_for_selector("#files a")
    for name in ("dream.mp4", "dream.json"):
        with page.expect_download() as download:
            page.click(f"#files a[download='{name}']")
        download.value.save_as(tmp_path / name)
    with av.open(str(tmp_path / "dream.mp4")) as video:
        num_frames = sum(1 for _ in video.decode(video=0))
    model = WorldModel.from_pretrained(config.checkpoint)
    replay = Replay.read(tmp_path / "dream.json", model)
    again = replay.generate_frames(prepare_for_inference(model, choose_device("cpu")))
    assert len(again) == num_frames >= 8 and 2 in replay.actions
    assert json.loads((tmp_path / "dream.json").read_text())["checkpoint"] in config.checkpoint


def test_a_replay_generates_the_frames_that_were_shown(visit, config, tmp_path):
    page = visit()
    page.click("#pause")
    page.wait_for_selector("body[data-phase=playing]")
    page.click("#pause")
    page.wait_for_selector("body[data-phase=paused]")
    time.sleep(0.4)
    page.click("#record")
    page.wait_for_selector("#record[aria-pressed=true]")
    seen = []
    for key in ("ArrowUp", "ArrowDown", "ArrowDown"):
        number = frame_number(page)
        page.keyboard.down(key)
        page.keyboard.press("n")
        wait_until(lambda number=number: frame_number(page) == number + 1)
        page.keyboard.up(key)
        seen.append(picture(page)[..., :3])
    page.click("#record")
    with page.expect_download() as download:
        page.click("#files a[download='dream.json']")
    download.value.save_as(tmp_path / "dream.json")
    model = WorldModel.from_pretrained(config.checkpoint)
    replay = Replay.read(tmp_path / "dream.json", model)
    assert replay.actions[replay.first_recorded :].tolist() == [1, 2, 2]
    again = replay.generate_frames(prepare_for_inference(model, choose_device("cpu")))
    assert np.abs(again.astype(int) - np.stack(seen)).max() <= 1


def test_the_real_game_is_shown_beside_the_dream(visit):
    page = visit()
    start_playing(page)
    page.check("#real-switch", force=True)
    page.wait_for_selector("#real-screen:not([hidden])")
    page.keyboard.down("ArrowUp")
    wait_until(lambda: "dB" in page.inner_text("#meter-psnr"))
    assert picture(page, "real")[..., :3].std() > 5
    page.keyboard.up("ArrowUp")
    page.uncheck("#real-switch", force=True)
    page.wait_for_selector("#real-screen", state="hidden")


def test_the_switch_stays_on_while_the_real_game_loads(visit, monkeypatch):
    real_game = Gallery.real_game
    monkeypatch.setattr(Gallery, "real_game", lambda *arguments: time.sleep(1.5) or real_game(*arguments))
    page = visit()
    start_playing(page)
    page.check("#real-switch", force=True)
    number = frame_number(page)
    wait_until(lambda: frame_number(page) > number + 3)
    assert page.is_checked("#real-switch") and page.is_hidden("#real-screen")
    page.wait_for_selector("#real-screen:not([hidden])")


def test_a_dream_starts_from_any_record_moment_or_image(visit, tmp_path):
    page = visit()
    start = picture(page)
    page.click("#gallery button >> nth=1")
    wait_until(lambda: page.input_value("#record-number") == "1" and (picture(page) != start).any())
    slide = "m => { const r = document.getElementById('moment'); r.value = m; r.dispatchEvent(new Event('input')) }"
    page.evaluate(slide, "3")
    wait_until(lambda: page.inner_text("#moment-text").startswith("3 of"))
    wait_until(lambda: "from 4 frames" in page.text_content("#this-dream"))
    Image.new("RGB", (300, 200), (250, 40, 10)).save(tmp_path / "red.png")
    page.set_input_files("#image", tmp_path / "red.png")
    wait_until(lambda: picture(page)[32, 32].tolist() == [250, 40, 10, 255])
    wait_until(lambda: "pixels were scaled to" in page.inner_text("#notice"))
    assert page.is_disabled("#real-switch")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    page.set_input_files("#image", tmp_path / "broken.png")
    wait_until(lambda: "not a picture" in page.inner_text("#notice"))
    start_playing(page)
    wait_until(lambda: frame_number(page) >= 2)


def test_two_browsers_play_independently_and_a_closed_tab_frees_its_place(visit):
    one, two = visit(), visit()
    one.keyboard.down("ArrowUp")
    two.keyboard.down("ArrowDown")
    wait_until(lambda: frame_number(one) > 5 and frame_number(two) > 5)
    assert (action(one), action(two)) == ("up", "down")
    assert (picture(one) != picture(two)).any()
    third = visit(phase="waiting")
    assert "You are next" in third.inner_text("#overlay")
    one.close()
    closed = time.monotonic()
    third.wait_for_selector("body[data-phase=ready]")
    assert time.monotonic() - closed < 5
    start_playing(third)
    number = frame_number(two)
    wait_until(lambda: frame_number(two) > number and frame_number(third) > 2)


def test_a_lost_connection_is_shown_and_can_be_restored(visit, config, tmp_path):
    Image.new("RGB", (64, 64), (250, 40, 10)).save(tmp_path / "red.png")
    with serving(config) as address:
        page = visit(address)
        page.set_input_files("#image", tmp_path / "red.png")
        wait_until(lambda: picture(page)[32, 32].tolist() == [250, 40, 10, 255])
        page.evaluate("socket.close()")
        page.wait_for_selector("body[data-phase=lost]")
        assert "lost" in page.inner_text("#overlay")
        page.click("#overlay button")
        page.wait_for_selector("body[data-phase=ready]")
        wait_until(lambda: picture(page)[32, 32].tolist() == [250, 40, 10, 255])


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone_is_played_by_touch(visit, scheme):
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("[data-key=UP]").bounding_box()
    assert box["width"] >= 48 and box["height"] >= 48 and box["y"] + box["height"] <= PHONE["height"]
    touch = page.context.new_cdp_session(page)

    def at(*keys):
        boxes = [page.locator(f"[data-key={key}]").bounding_box() for key in keys]
        return [{"x": b["x"] + b["width"] / 2, "y": b["y"] + b["height"] / 2, "id": n} for n, b in enumerate(boxes)]

    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at("UP")})
    wait_until(lambda: action(page) == "up" and frame_number(page) > 2)
    touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": at("DOWN")})  # slides over
    wait_until(lambda: action(page) == "down")
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    wait_until(lambda: action(page) == "noop")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(background[3:].replace("(", "[").replace(")", "]"))) < 200) == (scheme == "dark")


def test_pictures_are_scaled_by_a_whole_number_of_device_pixels(visit):
    for options in ({}, {"viewport": PHONE, "device_scale_factor": 3}, {"viewport": {"width": 1000, "height": 700}}):
        page = visit(**options)
        width = page.evaluate("document.getElementById('dream').getBoundingClientRect().width * devicePixelRatio")
        assert width >= 64 and abs(width / 64 - round(width / 64)) < 0.01
        assert page.evaluate("getComputedStyle(document.getElementById('dream')).imageRendering") == "pixelated"
        page.close()


def test_the_password_is_asked_for_once(visit, browser, config, monkeypatch):
    monkeypatch.setenv("DREAMRUN_TEST_PASSWORD", "open sesame")
    with serving(replace(config, password_env="DREAMRUN_TEST_PASSWORD")) as address:
        page = browser.new_page()
        page.goto(address)
        page.fill("#password", "wrong")
        page.click("button")
        page.wait_for_selector("text=Wrong password")
        page.fill("#password", "open sesame")
        page.click("button")
        page.wait_for_selector("body[data-phase=ready]")
        page.reload()
        page.wait_for_selector("body[data-phase=ready]")
        start_playing(page)
        page.close()
