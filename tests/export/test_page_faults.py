"""What can go wrong on a static page: damaged files, reloads, other tabs, keyboards of other languages, gamepads."""

import json
import shutil

import av
import numpy as np
import pytest
from browsing import action, download, frame_number, start_playing, wait_until
from screenshots import wait_for_phase
from static_server import serving_files

from dreamrun.export.site import write_site


@pytest.fixture
def damaged(web_root, tmp_path):
    """damaged(name, change): the address of a copy of the site of Pong in which a file has been changed."""
    with serving_files(tmp_path) as address:

        def make(name, change):
            site = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            shutil.copytree(web_root / "plain" / "pong", site)
            path = site / name
            path.unlink() if change is None else path.write_bytes(change(path.read_bytes()))
            return f"{address}/{site.name}/?threads=1&device=wasm"

        yield make


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("table.bin", lambda data: data[: len(data) // 2], "table.bin is damaged: it has"),
        ("table.bin", lambda data: data[:-4] + bytes(4), "table.bin is damaged"),
        ("model.fp32.onnx", lambda data: data + b"more", "model.fp32.onnx is damaged: it has more than"),
        ("model.fp32.onnx", None, "model.fp32.onnx cannot be loaded (404)"),
        ("prompts.bin", lambda data: data[:100], "prompts.bin is damaged: it has 100 of"),
        ("config.json", lambda data: data[:100], "config.json is damaged"),
        ("runtime/ort.wasm.min.mjs", lambda data: data[:-9], "ort.wasm.min.mjs is damaged"),
    ],
)
def test_a_damaged_file_is_named_and_the_message_stays(visit, damaged, name, change, text):
    page = visit(damaged(name, change), "lost", ignore_errors=True)
    page.wait_for_timeout(500)  # other files are still loading
    assert text in page.inner_text(".overlay") and page.locator(".overlay button").inner_text() == "Reconnect"


def test_threads_come_back_after_a_reload_that_bypasses_the_worker(visit, page_address):
    page = visit(f"{page_address}/plain/pong/?threads=2")
    assert page.evaluate("crossOriginIsolated")
    session = page.context.new_cdp_session(page)
    for _ in range(2):
        session.send("Page.reload", {"ignoreCache": True})  # Shift and reload
        page.wait_for_timeout(500)
        wait_for_phase(page, "ready")
        wait_until(lambda: page.evaluate("crossOriginIsolated"))


def test_both_games_of_a_site_have_threads_in_one_tab(visit, runtime, pong_game, custom_game, tmp_path):
    write_site(tmp_path, [pong_game, replace_name(custom_game, tmp_path)], "Two", "fp32", runtime)
    with serving_files(tmp_path) as address:
        page = visit(f"{address}/{pong_game.name}/?threads=2")
        assert page.evaluate("crossOriginIsolated")
        page.goto(f"{address}/other/?threads=2")
        wait_for_phase(page, "ready")
        assert page.evaluate("crossOriginIsolated") and "2 threads" in page.inner_text("#details")


def replace_name(game, folder):
    """The same game under another name, as both are called `random`."""
    shutil.copytree(game.checkpoint, folder / "checkpoints" / "other")
    return type(game)(folder / "checkpoints" / "other", game.data)


@pytest.fixture(scope="module")
def shared_page(browser, page_address):
    """A page that several tests use, each after `restart`."""
    page = browser.new_page()
    page.goto(f"{page_address}/isolated/pong/?threads=1&device=wasm")
    wait_for_phase(page, "ready")
    yield page
    page.close()


@pytest.fixture
def page(shared_page):
    shared_page.fill("#seed", "1")
    shared_page.click("#restart")
    wait_for_phase(shared_page, "ready")
    return shared_page


def dispatch(page, kind: str, **fields) -> None:
    script = """([kind, fields]) => document.dispatchEvent(
        new KeyboardEvent(kind, {bubbles: true, cancelable: true, ...fields}))"""
    page.evaluate(script, [kind, fields])


def held(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.key.held')].map((key) => key.dataset.key)")


def test_a_hidden_tab_says_so_and_any_key_resumes(page):
    start_playing(page)
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    page.evaluate(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    wait_for_phase(page, "idle")
    assert page.inner_text(".overlay") == "Paused: press any key"
    page.evaluate(hide % "false")
    page.keyboard.press("x")  # not a key of the game
    wait_for_phase(page, "playing")


def test_pause_before_the_first_key_pauses_and_one_frame_during_play_is_one(page):
    page.click("#pause")
    wait_for_phase(page, "paused")
    assert frame_number(page) == 0 and page.inner_text("#pause") == "Resume (P)"
    page.click("#pause")
    wait_for_phase(page, "playing")
    wait_until(lambda: frame_number(page) > 2)
    page.click("#step")
    wait_for_phase(page, "paused")
    page.wait_for_timeout(300)
    number = frame_number(page)
    page.click("#step")
    wait_until(lambda: frame_number(page) == number + 1)
    page.wait_for_timeout(300)
    assert frame_number(page) == number + 1


def test_a_bad_seed_is_refused_and_play_goes_on(page):
    start_playing(page)
    page.fill("#seed", "-3")
    page.press("#seed", "Enter")
    page.wait_for_selector(".notice.bad:has-text('The seed must be an integer')")
    number = frame_number(page)
    wait_until(lambda: frame_number(page) > number)


def test_letters_count_by_their_place_on_the_keyboard(page):
    for key in ("z", "ц", "ς", "w"):  # where W is on AZERTY, Cyrillic and Greek keyboards
        dispatch(page, "keydown", key=key, code="KeyW")
        assert held(page) == ["UP"], key
        dispatch(page, "keyup", key=key, code="KeyW")
        assert held(page) == []


@pytest.mark.parametrize("release", ["meta", "blur", "focus lost"])
def test_no_key_stays_held_when_its_release_is_not_told(page, release):
    dispatch(page, "keydown", key="ArrowUp", code="ArrowUp")
    assert held(page) == ["UP"]
    if release == "meta":
        dispatch(page, "keydown", key="Meta", code="MetaLeft", metaKey=True)
        dispatch(page, "keyup", key="Meta", code="MetaLeft")
    elif release == "blur":
        page.evaluate("window.dispatchEvent(new Event('blur'))")
    else:
        page.evaluate("document.hasFocus = () => false")
        wait_until(lambda: held(page) == [])
        page.evaluate("delete document.hasFocus")
    assert held(page) == []


def test_a_key_can_be_chosen_and_is_kept(page):
    page.click(".rebind summary")
    page.click("[data-rebind=UP]")
    page.keyboard.press("k")
    assert "K" in page.inner_text("[data-rebind=UP]")
    page.keyboard.down("k")
    assert held(page) == ["UP"]
    page.keyboard.up("k")
    page.reload()
    wait_for_phase(page, "ready")
    page.keyboard.down("k")
    assert held(page) == ["UP"]
    page.keyboard.up("k")
    page.click(".rebind summary")
    page.click(".bindings button:text-is('Reset')")
    page.keyboard.down("k")
    assert held(page) == []
    page.keyboard.up("k")


def test_a_gamepad_plays(page):
    page.evaluate("""() => {
        window.fake = {index: 0, axes: [0, 0], buttons: Array.from({length: 16}, () => ({pressed: false}))};
        navigator.getGamepads = () => [fake, null];
        dispatchEvent(new Event('gamepadconnected'));
    }""")
    page.evaluate("fake.axes[1] = -0.9")
    wait_until(lambda: held(page) == ["UP"])
    wait_for_phase(page, "playing")
    page.evaluate("fake.axes[1] = 0; fake.buttons[13].pressed = true")
    wait_until(lambda: held(page) == ["DOWN"] and action(page) == "down")
    page.evaluate("fake.buttons[13].pressed = false")
    wait_until(lambda: held(page) == [])


def test_the_video_of_a_recording_has_exactly_the_frames_of_its_replay(page, tmp_path):
    page.click("#record")
    page.wait_for_selector("#record:has-text('Stop')")
    start_playing(page)
    wait_until(lambda: frame_number(page) >= 5)
    page.click("#pause")
    wait_for_phase(page, "paused")
    page.wait_for_timeout(300)
    for _ in range(3):  # frames that are generated while play is paused belong to it, too
        number = frame_number(page)
        page.keyboard.press("n")
        wait_until(lambda number=number: frame_number(page) == number + 1)
    last = np.array(
        page.evaluate("[...document.querySelector('.dream-canvas').getContext('2d').getImageData(0, 0, 64, 64).data]")
    ).reshape(64, 64, 4)[..., :3]
    page.click("#record")
    page.wait_for_selector("#download-video:visible")
    download(page, "#download-json", tmp_path / "dream.json")
    download(page, "#download-video", tmp_path / "dream.webm")
    replay = json.loads((tmp_path / "dream.json").read_text())
    with av.open(str(tmp_path / "dream.webm")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        times = video.duration / 1e6
    assert len(frames) == len(replay["actions"]) - replay["first_recorded"] == frame_number(page)
    assert times == pytest.approx(len(frames) / 15, abs=0.01)
    small = frames[-1][:512].reshape(64, 8, 64, 8, 3).mean((1, 3))
    assert np.abs(small - last).mean() < 8  # lossy
    assert page.evaluate("document.querySelector('#recording video').duration") == pytest.approx(times, abs=0.1)


def test_the_same_picture_can_be_chosen_twice(page, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64), (250, 40, 10)).save(tmp_path / "red.png")
    for _ in range(2):
        page.set_input_files("#image", tmp_path / "red.png")
        page.wait_for_selector("#details:has-text('your picture')")
        page.click("#prompts button >> nth=0")
        page.wait_for_selector("#details:has-text('record 0')")


def test_a_phone_held_sideways_shows_picture_and_keys_in_one_screen(visit, page_address):
    page = visit(f"{page_address}/isolated/pong/?threads=1&device=wasm", viewport={"width": 844, "height": 390})
    page.evaluate("document.querySelector('.screens').scrollIntoView()")
    boxes = page.evaluate("""['.dream-canvas', '[data-key=UP]', '[data-key=DOWN]'].map((s) => {
        const b = document.querySelector(s).getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] })""")
    assert all(left >= 0 and top >= 0 and right <= 844 and bottom <= 390 for left, top, right, bottom in boxes), boxes
    assert boxes[0][3] - boxes[0][1] > 250
