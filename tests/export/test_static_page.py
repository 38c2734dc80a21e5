"""Static pages in a browser: equality with torch, and playing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import action, download, frame_number, picture, start_playing, wait_until
from PIL import Image
from screenshots import CHROMIUM, DESKTOP, chromium, wait_for_phase
from web_rollouts import ROLL_OUT, write_reference

from dreamrun.export.site import describe_space
from dreamrun.games.space import ActionSpace
from dreamrun.model import WorldModel
from dreamrun.play.actions import playable_actions
from dreamrun.play.replay import Replay

NUM_FRAMES = 40
COINRUN = Path(__file__).parent.parent.parent / "checkpoints" / "coinrun-nano" / "game.json"


@pytest.fixture(scope="module")
def references(web_root, pong_game, custom_game):
    """The actions of torch's rollouts, by site."""
    games = {"pong": pong_game, "custom": custom_game}
    return {name: write_reference(web_root / "plain" / name, game, NUM_FRAMES) for name, game in games.items()}


@pytest.mark.parametrize(("site", "threads"), [("pong", 2), ("custom", 1)])
def test_frames_are_those_of_torch(visit, page_address, references, site, threads):
    page = visit(f"{page_address}/isolated/{site}/config.json", phase=None, ignore_errors=True)  # a page of this origin
    base = f"{page_address}/isolated/{site}/"
    result = page.evaluate(ROLL_OUT, [base, threads, "wasm", references[site]])
    assert result["worst"] < 3e-4 and f"{threads} thread" in result["name"]


def test_noise_and_actions_are_those_of_python(visit, page_address, custom_game, pong_game):
    page = visit(f"{page_address}/plain/pong/config.json", phase=None, ignore_errors=True)  # a page of this origin
    script = "async ([base, seed, sizes]) => { const draw = (await import(base + 'random.js')).normals(seed);"
    script += "return sizes.map((n) => [...draw(n)]) }"
    for seed, sizes in ((0, [16, 3000]), (2**31 - 1, [100, 31])):
        generator = torch.Generator().manual_seed(seed)
        drawn = page.evaluate(script, [f"{page_address}/plain/pong/", seed, sizes])
        for n, numbers in zip(sizes, drawn, strict=True):
            assert np.abs(np.array(numbers) - torch.randn(n, generator=generator).numpy()).max() < 1e-5
    coinrun = ActionSpace.from_dict(json.loads(COINRUN.read_text()))
    for site, space in (
        ("pong", coinrun),
        ("custom", playable_actions(WorldModel.from_pretrained(custom_game.checkpoint))),
    ):
        rng = np.random.default_rng(0)
        keys = [*space.all_keys, *space.key_aliases, "X"]
        held = [[str(k) for k in rng.permutation(keys)[: rng.integers(0, 5)]] for _ in range(60)]
        script = """async ([base, space, held]) => { const a = await import(base + 'actions.js');
            return held.map((keys) => a.actionForKeys(keys, space)) }"""
        found = page.evaluate(script, [f"{page_address}/plain/{site}/", describe_space(space), held])
        expected = [np.asarray(space.action_for_keys(keys)).tolist() for keys in held]
        assert found == expected


def test_a_page_isolates_itself_and_plays(visit, page_address):
    page = visit(f"{page_address}/plain/pong/?threads=2")
    assert page.evaluate("crossOriginIsolated") and "2 threads" in page.inner_text("#details")
    assert page.title() == "My pong"
    wait_until(lambda: page.locator("#prompts img").count() == 3)
    before = picture(page).astype(int)
    page.keyboard.down("ArrowUp")
    wait_until(lambda: frame_number(page) >= 3 and action(page) == "up", 60)
    assert np.abs(picture(page) - before).max() > 10
    page.keyboard.up("ArrowUp")
    wait_until(lambda: action(page) == "noop")
    page.keyboard.press("p")
    wait_for_phase(page, "paused")
    number = frame_number(page)
    page.click("#steps button:text-is('down')")
    wait_until(lambda: frame_number(page) == number + 1 and action(page) == "down")
    page.click("#prompts button >> nth=1")
    wait_until(lambda: "record 1" in page.inner_text("#details") and frame_number(page) == 0)
    page.select_option("#num-steps", "2")
    page.fill("#seed", "7")
    page.keyboard.press("Enter")
    wait_until(lambda: "seed 7, 2 steps" in page.inner_text("#details"))


def test_a_recording_can_be_watched_and_replayed_by_torch(visit, page_address, custom_game, tmp_path):
    page = visit(f"{page_address}/isolated/custom/?threads=1")
    page.click("#pause")
    wait_for_phase(page, "paused")
    seen = []

    def one_frame():
        number = frame_number(page)
        page.keyboard.press("n")
        wait_until(lambda: frame_number(page) == number + 1)
        seen.append(
            page.evaluate(
                "[...document.querySelector('.dream-canvas').getContext('2d').getImageData(0, 0, 96, 64).data]"
            )
        )

    one_frame()
    page.click("#record")
    page.wait_for_selector("#record:has-text('Stop')")
    page.keyboard.down("d")
    page.keyboard.down("j")
    one_frame()
    assert action(page) == "right+dx"
    page.keyboard.up("d")
    one_frame()
    page.click("#record")
    page.wait_for_selector("#download-video:visible")
    wait_until(lambda: page.evaluate("document.querySelector('#recording video').videoWidth") > 0)
    download(page, "#download-json", tmp_path / "dream.json")
    model = WorldModel.from_pretrained(custom_game.checkpoint)
    replay = Replay.read(tmp_path / "dream.json", model)
    assert replay.actions[replay.first_recorded :].tolist() == [[0, 1, 0, 0, -1, 0], [0, 0, 0, 0, -1, 0]]
    again = replay.generate_frames(model)
    shown = np.array(seen, np.uint8).reshape(3, 64, 96, 4)[1:, ..., :3]
    assert np.abs(again.astype(int) - shown).max() <= 1


def test_a_picture_of_ones_own(visit, page_address, tmp_path):
    page = visit(f"{page_address}/plain/pong/?threads=1")
    assert not page.evaluate("crossOriginIsolated") and "1 thread" in page.inner_text("#details")
    Image.new("RGB", (300, 200), (250, 40, 10)).save(tmp_path / "red.png")
    page.set_input_files("#image", tmp_path / "red.png")
    wait_until(lambda: picture(page)[32, 32].tolist() == [250, 40, 10, 255])
    wait_until(lambda: "your picture" in page.inner_text("#details"))
    start_playing(page)
    wait_until(lambda: frame_number(page) >= 2, 60)


def test_an_old_browser_is_told(browser, page_address):
    page = browser.new_page(viewport=DESKTOP)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.add_init_script("delete window.DecompressionStream")
    page.goto(f"{page_address}/plain/pong/")
    wait_for_phase(page, "lost")
    assert "too old: it has no decompression streams" in page.inner_text(".overlay")
    assert not any(url.endswith((".wasm", ".onnx", "worker.js")) for url in requests)
    page.close()


# A software adapter of Chromium, which takes a minute to compile the programs.
FLAGS = ("--no-sandbox", "--enable-unsafe-webgpu", "--ignore-gpu-blocklist", "--enable-features=Vulkan")
FLAGS += ("--use-vulkan=swiftshader", "--use-webgpu-adapter=swiftshader")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_frames_of_webgpu_are_those_of_torch(page_address, web_root, pong_game):
    vectors = write_reference(web_root / "plain" / "pong", pong_game, num_frames=8)
    with chromium(FLAGS) as browser:
        page = browser.new_page()
        page.goto(f"{page_address}/isolated/pong/config.json")
        assert page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"), "this Chromium has no software adapter"
        result = page.evaluate(ROLL_OUT, [f"{page_address}/isolated/pong/", 1, "webgpu", vectors])
    assert result["name"] == "WebGPU" and result["worst"] < 1e-4
