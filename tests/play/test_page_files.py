"""Prompts, recordings, the login, and lost connections on the page."""

import contextlib
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from browsing import (
    GALLERY,
    REAL_GAME,
    download,
    frame_number,
    pause,
    picture,
    record,
    start_playing,
    upload_image,
    wait_until,
)  # fmt: skip
from PIL import Image
from playing import serving
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from recordings import read_video
from screenshots import wait_for_phase

from dreamrun.model import WorldModel
from dreamrun.model.inference import choose_device, prepare_for_inference
from dreamrun.play.launch import find_port
from dreamrun.play.replay import Replay

RED = [250, 40, 10, 255]


@pytest.fixture
def red_image(tmp_path):
    Image.new("RGB", (300, 200), tuple(RED[:3])).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_a_recording_is_shown_downloaded_and_replayed(page, page_config, tmp_path):
    pause(page)
    seen = []

    def play():
        for key in ("ArrowUp", "ArrowDown", "ArrowDown"):
            number = frame_number(page)
            page.keyboard.down(key)
            page.keyboard.press("n")
            wait_until(lambda number=number: frame_number(page) == number + 1)
            page.keyboard.up(key)
            seen.append(picture(page)[..., :3])

    record(page, play)
    page.wait_for_selector("#recording video")
    wait_until(lambda: page.evaluate("document.querySelector('#recording video').videoWidth") > 0)
    download(page, "#download-mp4", tmp_path / "dream.mp4")
    download(page, "#download-json", tmp_path / "dream.json")
    assert len(read_video(tmp_path / "dream.mp4")) == len(seen)
    assert json.loads((tmp_path / "dream.json").read_text())["checkpoint"] in page_config.checkpoint
    model = WorldModel.from_pretrained(page_config.checkpoint)
    replay = Replay.read(tmp_path / "dream.json", model)
    assert replay.actions[replay.first_recorded :].tolist() == [1, 2, 2]
    again = replay.generate_frames(prepare_for_inference(model, choose_device("cpu")))
    assert np.abs(again.astype(int) - np.stack(seen)).max() <= 1


def test_a_dream_starts_from_any_record_and_moment(page):
    start = picture(page)
    page.click(f"{GALLERY} >> nth=1")
    wait_until(lambda: page.input_value("#record-number input") == "1" and (picture(page) != start).any())
    wait_until(lambda: "record 1" in page.inner_text("#details"))
    page.fill("#moment input[type=number]", "3")
    wait_until(lambda: "from 4 frames, record 1, moment 3" in page.inner_text("#details"))
    page.fill("#record-number input", "2")
    wait_until(lambda: "record 2" in page.inner_text("#details"))
    page.focus("#moment input[type=range]")
    moment = int(page.input_value("#moment input[type=number]"))
    page.keyboard.press("ArrowRight")  # the slider has the focus, so the arrow key is not the game's
    wait_until(lambda: f"record 2, moment {moment + 1}" in page.inner_text("#details"))
    assert frame_number(page) == 0


def test_a_dream_starts_from_the_players_own_picture(page, red_image, tmp_path):
    upload_image(page, red_image)
    wait_until(lambda: picture(page)[32, 32].tolist() == RED)
    wait_until(lambda: "pixels were scaled to" in page.inner_text(".notice"))
    wait_until(lambda: page.is_disabled(REAL_GAME))
    wait_until(lambda: "no real game for your own image" in page.inner_text("#real"))
    start_playing(page)
    wait_until(lambda: frame_number(page) >= 2)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    upload_image(page, tmp_path / "broken.png")
    wait_until(lambda: "not a picture" in page.inner_text(".notice"))
    page.click(f"{GALLERY} >> nth=0")
    wait_until(lambda: picture(page)[32, 32].tolist() != RED and page.is_enabled(REAL_GAME))


def test_a_lost_connection_is_shown_and_can_be_restored(page, red_image):
    upload_image(page, red_image)
    wait_until(lambda: picture(page)[32, 32].tolist() == RED)
    page.evaluate("dreamrun.disconnect()")
    wait_for_phase(page, "lost")
    assert "lost" in page.inner_text(".overlay")
    page.click(".overlay button")
    wait_for_phase(page, "ready")
    wait_until(lambda: picture(page)[32, 32].tolist() == RED)
    page.click(f"{GALLERY} >> nth=1")  # for other tests
    wait_until(lambda: picture(page)[32, 32].tolist() != RED)


def test_the_page_reconnects_after_the_server_has_restarted(visit, page_config):
    config = replace(page_config, port=find_port("127.0.0.1", 0))
    with serving(config) as address:
        page = visit(address, ignore_errors=True)  # the browser reports that the server is gone
    wait_for_phase(page, "lost")
    page.click(".overlay button")
    page.wait_for_selector(".overlay:has-text('does not answer')")
    with serving(config):
        with contextlib.suppress(PlaywrightTimeout):  # Gradio may find the server first and load the page again
            page.click(".overlay button", timeout=3_000)
        wait_for_phase(page, "ready")
        start_playing(page)
        wait_until(lambda: frame_number(page) > 2)
        page.click(f"{GALLERY} >> nth=1")  # Gradio's own events work, too
        wait_until(lambda: "record 1" in page.inner_text("#details"))


def test_the_password_is_asked_for_once_and_again_after_a_restart(visit, page_config, monkeypatch):
    monkeypatch.setenv("DREAMRUN_TEST_PASSWORD", "open sesame")
    config = replace(page_config, password_env="DREAMRUN_TEST_PASSWORD", port=find_port("127.0.0.1", 0))

    def log_in(password):
        page.get_by_label("username").fill("me")
        page.get_by_label("password").fill(password)
        page.get_by_role("button", name="Login").click()

    with serving(config) as address:
        page = visit(address, phase=None, ignore_errors=True)  # the browser reports the wrong password
        log_in("wrong")
        page.wait_for_selector("text=Incorrect")
        log_in("open sesame")
        wait_for_phase(page, "ready")
        assert page.context.request.get(f"{address}/config").ok  # also when the page is loaded again
        start_playing(page)
    wait_for_phase(page, "lost")
    with serving(config):
        page.click(".overlay button")
        page.get_by_label("password").wait_for()
        log_in("open sesame")
        wait_for_phase(page, "ready")


def test_players_who_press_no_key_are_paused_and_continue_with_a_key(visit, page_config):
    with serving(page_config, idle_secs=1.0) as address:
        page = visit(address)
        start_playing(page)
        wait_for_phase(page, "idle")
        assert "not pressed a key" in page.inner_text(".overlay")
        time.sleep(0.3)
        number = frame_number(page)
        start_playing(page)
        wait_until(lambda: frame_number(page) > number)
