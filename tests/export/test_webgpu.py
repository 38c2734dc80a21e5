"""The network on a GPU: a software adapter of Chromium, which takes a minute to compile the programs."""

import pytest
from screenshots import CHROMIUM, chromium
from web_rollouts import ROLL_OUT, write_reference

FLAGS = ("--no-sandbox", "--enable-unsafe-webgpu", "--ignore-gpu-blocklist", "--enable-features=Vulkan")
FLAGS += ("--use-vulkan=swiftshader", "--use-webgpu-adapter=swiftshader")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_frames_are_those_of_torch(page_address, web_root, pong_game):
    vectors = write_reference(web_root / "plain" / "pong", pong_game, num_frames=8)
    with chromium(FLAGS) as browser:
        page = browser.new_page()
        page.goto(f"{page_address}/isolated/pong/config.json")
        assert page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"), "this Chromium has no software adapter"
        result = page.evaluate(ROLL_OUT, [f"{page_address}/isolated/pong/", 1, "webgpu", vectors])
    assert result["name"] == "WebGPU" and result["worst"] < 1e-4
