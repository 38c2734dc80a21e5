"""Playing on the page: keys, touch, pausing, several browsers."""

import json
import time
from html import escape
from types import SimpleNamespace

import numpy as np
import pytest
from browsing import GALLERY, REAL_GAME, action, frame_number, hidden_text, pause, picture, start_playing, wait_until
from hostile_names import HOSTILE_NAMES
from markdown_it import MarkdownIt
from playing import Client, serving
from screenshots import DESKTOP, PHONE, wait_for_phase

from dreamrun.play.gallery import Gallery


def test_the_page_shows_the_prompt_and_controls_that_have_names_and_can_be_reached_by_keyboard(page):
    assert page.title() == "Dreamrun: play the dream"
    assert "pong" in page.inner_text(".origin")
    wait_until(lambda: page.locator(GALLERY).count() == 3)  # Gradio may add it after the dream's first picture
    assert picture(page)[..., :3].std() > 5 and frame_number(page) == 0
    assert "to start" in page.inner_text(".overlay") and page.inner_text(".pad").split() == ["↓", "down", "↑", "up"]
    reached, focused = set(), "(e => e.id || e.dataset.key || e.className || e.tagName)(document.activeElement)"
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(focused))
    assert {"UP", "DOWN", "restart", "pause", "step", "record", "dream-canvas"} <= reached
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, select, canvas[role=img]')].filter(x =>
           x.checkVisibility() && !x.ariaLabel && !x.labels?.length && !x.textContent.trim() && !x.title
           ).map(x => x.outerHTML)"""
    )
    assert nameless == []
    page.focus("[data-key=UP]")
    page.keyboard.down(" ")  # space holds the key that has the focus
    wait_until(lambda: action(page) == "up" and frame_number(page) > 0)
    page.keyboard.up(" ")
    wait_until(lambda: action(page) == "noop")


def test_buttons_and_axes_can_be_held_together(visit, controls_config):
    with serving(controls_config) as address:
        page = visit(address)
        assert "dx-" in page.inner_text(".pad") and page.locator(".pad .key").count() == 9
        for key in ("d", " ", "j"):
            page.keyboard.down(key)
        wait_until(lambda: action(page) == "right+jump+dx")
        held_keys = page.locator(".pad .key.held").all_inner_texts()
        assert [text.split()[-1] for text in held_keys] == ["right", "jump", "dx-"]
        page.keyboard.up("d")
        wait_until(lambda: action(page) == "jump+dx")
        page.keyboard.up(" ")
        page.keyboard.up("j")
        pause(page)
        number = frame_number(page)
        page.click("button.step-action:text-is('dx=-1')")
        wait_until(lambda: frame_number(page) == number + 1 and action(page) == "dx")


def test_a_model_without_actions_can_be_watched(visit, watched_config):
    with serving(watched_config) as address:
        page = visit(address)
        assert "has no keys" in page.inner_text(".overlay")
        wait_until(lambda: "without actions" in page.inner_text("#details"))
        assert page.locator("button.step-action").count() == 0
        page.click(".overlay button")
        wait_until(lambda: frame_number(page) > 3)


def test_a_key_acts_from_press_to_release(page):
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
    page.keyboard.up("s")
    wait_until(lambda: "ms" in page.inner_text("[data-meter=delay]"))
    wait_until(lambda: page.inner_text("[data-meter=fps]")[0].isdigit())


def test_keys_change_the_frames_and_a_seed_that_is_none_is_refused(page):
    page.click("#sampling button")
    page.fill("#seed input, #seed textarea", "abc")
    page.click("#restart")
    page.wait_for_selector(".notice.bad:has-text('The seed must be an integer')")
    page.fill("#seed input, #seed textarea", "7")

    def generate(key):
        page.click("#restart")
        page.wait_for_selector(".stage[data-phase=ready][data-frame='0']")
        wait_until(lambda: "seed 7" in page.inner_text("#details"))
        page.keyboard.down(key)
        wait_until(lambda: frame_number(page) >= 12)
        page.keyboard.up(key)
        return picture(page).astype(int)

    assert np.abs(generate("ArrowUp") - generate("ArrowDown")).max() > 10
    page.fill("#seed input, #seed textarea", "")


def test_pause_single_steps_starting_over_and_speed(page):
    start_playing(page)
    page.keyboard.press("p")
    wait_for_phase(page, "paused")
    page.wait_for_selector("#pause:has-text('Resume')")
    time.sleep(0.4)
    number = frame_number(page)
    page.keyboard.press("n")
    wait_until(lambda: frame_number(page) == number + 1)
    time.sleep(0.3)
    assert frame_number(page) == number + 1
    page.keyboard.press("r")
    page.wait_for_selector(".stage[data-phase=ready][data-frame='0']")

    # Every click generates one frame under its action.
    buttons = page.locator("button.step-action")
    wait_until(lambda: buttons.all_inner_texts() == ["noop", "up", "down"])
    for number, name in enumerate(("up", "down", "down", "noop"), start=1):
        page.click(f"button.step-action:text-is('{name}')")
        wait_until(lambda number=number: frame_number(page) == number)
        assert action(page) == name
    time.sleep(0.3)
    assert frame_number(page) == 4
    start_playing(page)
    page.click("button.step-action:text-is('down')")  # pauses
    wait_for_phase(page, "paused")
    wait_until(lambda: action(page) == "down")
    number = frame_number(page)
    time.sleep(0.3)
    assert frame_number(page) == number

    page.click("#speed input")
    page.click("[role=option]:has-text('Quarter')")
    page.click("#restart")
    page.wait_for_selector(".stage[data-phase=ready][data-frame='0']")
    start_playing(page)
    time.sleep(0.5)
    first, start = frame_number(page), time.monotonic()
    wait_until(lambda: frame_number(page) >= first + 6)
    assert time.monotonic() - start > 1.2  # a quarter of 15 frames/s
    page.click("#speed input")
    page.click("[role=option]:has-text('Full')")


def test_the_real_game_is_shown_beside_the_dream_at_the_same_moment(page):

    def switch_on():
        page.check(REAL_GAME)
        page.wait_for_selector(".real:not([hidden])")
        return picture(page, "real")

    np.testing.assert_array_equal(switch_on(), picture(page))  # the prompt's last frame is the real game's
    first = picture(page)
    page.uncheck(REAL_GAME)
    page.wait_for_selector(".real", state="hidden")
    page.click(f"{GALLERY} >> nth=1")
    wait_until(lambda: "record 1" in page.inner_text("#details") and (picture(page) != first).any())
    np.testing.assert_array_equal(switch_on(), picture(page))
    page.uncheck(REAL_GAME)
    page.wait_for_selector(".real", state="hidden")
    for number in range(1, 4):
        page.click("button.step-action:text-is('up')")
        wait_until(lambda number=number: frame_number(page) == number)
    later = switch_on()
    assert (later != first).any() and later[..., :3].std() > 5
    assert page.get_attribute(".stage", "data-phase") in ("ready", "paused")
    page.uncheck(REAL_GAME)
    page.wait_for_selector(".real", state="hidden")
    page.click("#restart")
    page.wait_for_selector(".stage[data-phase=ready][data-frame='0']")
    start_playing(page)
    page.check(REAL_GAME)
    page.wait_for_selector(".real:not([hidden])")
    page.keyboard.down("ArrowUp")  # although the switch was used last
    wait_until(lambda: "dB" in page.inner_text("[data-meter=psnr]") and action(page) == "up")
    assert picture(page, "real")[..., :3].std() > 5
    page.keyboard.up("ArrowUp")
    page.uncheck(REAL_GAME)
    page.wait_for_selector(".real", state="hidden")


def test_the_switch_stays_on_while_the_real_game_loads(page, monkeypatch):
    real_game = Gallery.real_game
    monkeypatch.setattr(Gallery, "real_game", lambda *arguments: time.sleep(1.5) or real_game(*arguments))
    start_playing(page)
    page.check(REAL_GAME)
    number = frame_number(page)
    wait_until(lambda: frame_number(page) > number + 3)
    assert page.is_checked(REAL_GAME) and page.is_hidden(".real")
    page.wait_for_selector(".real:not([hidden])")
    page.uncheck(REAL_GAME)
    page.wait_for_selector(".real", state="hidden")


def test_two_browsers_play_independently_and_a_closed_tab_frees_its_place(page, visit):
    one, two = visit(), page
    one.keyboard.down("ArrowUp")
    two.keyboard.down("ArrowDown")
    wait_until(lambda: frame_number(one) > 5 and frame_number(two) > 5)
    assert (action(one), action(two)) == ("up", "down")
    assert (picture(one) != picture(two)).any()
    third = visit(phase="waiting")
    assert "You are next" in third.inner_text(".overlay")
    one.close()
    closed = time.monotonic()
    wait_for_phase(third, "ready")
    assert time.monotonic() - closed < 5
    start_playing(third)
    number = frame_number(two)
    wait_until(lambda: frame_number(two) > number and frame_number(third) > 2)
    two.keyboard.up("ArrowDown")


def test_messages_over_the_picture_are_shown_in_full(page, visit, page_address):
    with Client(page_address) as other:  # beside `page`
        other.join()
        page = visit(phase="waiting")
        assert "as soon as a place is free" in page.inner_text(".overlay-text")
        for size in (PHONE, DESKTOP):
            page.set_viewport_size(size)
            assert not hidden_text(page, ".overlay-text")
    wait_for_phase(page, "ready")
    page.check(REAL_GAME)  # on a phone, two small pictures beside each other
    page.wait_for_selector(".real:not([hidden])")
    page.evaluate("dreamrun.disconnect()")
    wait_for_phase(page, "lost")
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        page.evaluate("scrollTo(0, 0)")
        assert not hidden_text(page, ".overlay-text") and not hidden_text(page, ".overlay button")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_a_phone_is_played_by_touch(visit):
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2, color_scheme="dark")
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

    def brightness():
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(json.loads(background[3:].replace("(", "[").replace(")", "]")))

    assert brightness() < 200
    page.emulate_media(color_scheme="light")
    wait_until(lambda: brightness() >= 200)


def test_pictures_are_scaled_by_a_whole_number_of_device_pixels(page):
    canvas = "document.querySelector('.dream-canvas')"
    screen = page.context.new_cdp_session(page)
    for width, height, scale in ((1280, 800, 1), (390, 844, 3), (1000, 700, 1)):
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        screen.send("Emulation.setDeviceMetricsOverride", size)
        wait_until(lambda size=(width, scale): page.evaluate("[innerWidth, devicePixelRatio]") == [*size])
        page.evaluate("new Promise(requestAnimationFrame).then(() => new Promise(requestAnimationFrame))")
        width = page.evaluate(f"{canvas}.getBoundingClientRect().width * devicePixelRatio")
        assert width >= 64 and abs(width / 64 - round(width / 64)) < 0.01
        assert page.evaluate(f"getComputedStyle({canvas}).imageRendering") == "pixelated"
    page.set_viewport_size(DESKTOP)


def test_the_menu_chooses_the_game_and_a_button_dreams_from_words(visit, config_of_several_games):
    with serving(config_of_several_games) as address:
        page = visit(address)
        words = page.locator("#words").locator("textarea, input")
        assert words.input_value() == "pong, two paddles and a ball"
        page.click("#game input")
        page.get_by_role("option", name="pong-48x32").click()
        page.wait_for_function("document.querySelector('.dream-canvas').width === 48")
        wait_for_phase(page, "ready")
        page.wait_for_function("document.querySelector('#words textarea, #words input').value.endsWith('wide picture')")
        wait_until(lambda: "Record, 0 to 1" in page.locator("#record-number").inner_text())
        words.fill("a fish")
        page.click("#dream-words")
        page.wait_for_function("document.querySelector('#details').innerText.includes('from 1 frames')")
        wait_for_phase(page, "ready")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_from_files_are_text_on_the_page(name):
    from dreamrun.play.ui import _allow_real_game, _describe  # here, as Gradio takes seconds to import

    started = SimpleNamespace(
        seed=1, num_steps=2, guidance=1, prompt_frames=3, record=4, moment=5, key_hint=f"Hold {name}.",
        why_no_real_game=f"unknown environment {name}: choose pong",
    )  # fmt: skip
    shown = escape(name).replace("&#x27;", "'")
    for text in (_describe(started), _allow_real_game(started).info):
        rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
        assert shown in rendered and rendered.count("<") == 2  # of the paragraph
        assert "http://" not in text and "www." not in text
    assert _allow_real_game(SimpleNamespace(why_no_real_game=None)).interactive
