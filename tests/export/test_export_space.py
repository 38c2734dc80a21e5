"""The command scripts.export_space: the folder that it writes, and its upload to a fake of the Hub."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import GALLERY, frame_number, wait_until
from playing import can_play
from screenshots import CHROMIUM, chromium, wait_for_phase
from tiny import refused, succeeded

from dreamrun.play.launch import find_port

ROOT = Path(__file__).parents[2]
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("DREAMRUN_BROWSER") != "required", reason="no Chromium"
)


@pytest.fixture
def export(run_script, play_config, pong_set, tmp_path):
    """export(*options): run the command; exit code, standard output, standard error."""
    options = ("--checkpoint", play_config.checkpoint, "--data", pong_set, "--out", tmp_path / "space")
    return lambda *more: run_script("export_space", *options, *more)


def test_the_folder_has_all_that_a_space_needs(export, tmp_path):
    out = succeeded(export("--title", "My game", "--max-players", 3, "--torch-index", "https://index.example/cpu"))
    assert "python app.py" in out
    space = tmp_path / "space"
    readme = (space / "README.md").read_text()
    assert readme.startswith("---\ntitle: My game\n") and "\nsdk: gradio\n" in readme and "app_file: app.py" in readme
    requirements = (space / "requirements.txt").read_text()
    versions = dict(re.findall(r"^([\w-]+)==(.+)$", requirements, re.MULTILINE))
    assert versions["gradio"] == re.search(r"sdk_version: (\S+)", readme)[1]
    assert re.fullmatch(r"[\d.]+", versions["torch"]) and "torchvision" not in requirements
    assert requirements.startswith("--extra-index-url https://index.example/cpu\n")
    assert {path.name for path in (space / "checkpoint").iterdir()} == {"config.json", "game.json", "model.safetensors"}
    assert {path.name for path in (space / "samples").iterdir()} == {"metadata.json", "test"}
    assert (space / "dreamrun" / "play" / "stage" / "stage.js").exists() and not list(space.rglob("__pycache__"))
    assert "max_players=3" in (space / "app.py").read_text()


def test_a_folder_with_files_is_not_overwritten(export, tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "precious.txt").write_text("mine")
    refused(export(), "space is not empty")
    assert [path.name for path in (tmp_path / "space").iterdir()] == ["precious.txt"]


def test_the_space_is_uploaded(export, hub):
    assert "uploaded to" in succeeded(export("--push", "user/name", "--private"))
    assert hub["created"]["type"] == "space" and hub["created"]["sdk"] == "gradio"
    assert hub["created"]["visibility"] == "private"
    assert {"app.py", "README.md", "requirements.txt", "checkpoint/model.safetensors", "dreamrun/play/ui.py"} <= set(
        hub["files"]
    )


def play_in_a_frame(python: Path | str, space: Path, outer_folder: Path, **environment: str) -> list[str]:
    """Run a Space as huggingface.co does: on a host name of its own behind a proxy, in a frame of another page.

    Plays it in the browser, and checks that a program can connect.

    Args:
        python: the interpreter that runs `app.py`.
        outer_folder: new folder for the page around the frame.
        environment: more environment variables.

    Returns:
        Addresses on other hosts that the page requested.
    """
    port, outer_port = find_port("127.0.0.1", 0), find_port("127.0.0.1", 0)
    outer_folder.mkdir()
    frame = f'<iframe src="http://localhost:{port}/" width=1200 height=800></iframe>'
    (outer_folder / "index.html").write_text(frame)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"SPACE_HOST": f"localhost:{port}", "FRAME_ANCESTORS": f"http://127.0.0.1:{outer_port}"}
    variables |= {"GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1", **environment}
    app = subprocess.Popen([python, "app.py"], cwd=space, env=variables, stdout=subprocess.PIPE, text=True)
    outer = [sys.executable, "-m", "http.server", str(outer_port), "--bind", "127.0.0.1", "--directory", outer_folder]
    server = subprocess.Popen(outer, stderr=subprocess.DEVNULL)
    requested = []
    try:
        while "play at http" not in app.stdout.readline():
            assert app.poll() is None
        with chromium() as browser:
            page = browser.new_page()
            page.on("request", lambda request: requested.append(request.url))
            page.goto(f"http://127.0.0.1:{outer_port}/")
            frame = page.wait_for_selector("iframe").content_frame()
            wait_for_phase(frame, "ready")
            page.mouse.click(300, 300)  # the frame gets the keyboard
            page.keyboard.down("ArrowUp")
            wait_until(lambda: frame_number(frame) > 3)
            page.keyboard.up("ArrowUp")
            frame.click(f"{GALLERY} >> nth=1")  # Gradio's own events work, too
            wait_until(lambda: "record 1" in frame.inner_text("#details"))
        assert can_play(f"http://localhost:{port}")
    finally:
        for process in (app, server):
            process.terminate()
            process.communicate(timeout=120)
    own = (f"http://localhost:{port}/", f"http://127.0.0.1:{outer_port}/", "data:", "blob:")
    return [url for url in requested if not url.startswith(own)]


@needs_browser
def test_the_space_plays_in_a_frame_of_another_origin(export, tmp_path):
    assert export()[0] == 0
    assert play_in_a_frame(sys.executable, tmp_path / "space", tmp_path / "outer") == []


@pytest.mark.slow
@needs_browser
def test_the_space_plays_in_a_fresh_environment_with_only_its_requirements(run_script, tmp_path):
    """With the shipped checkpoint, and the environment variables that Hugging Face sets."""
    shipped = ("--checkpoint", ROOT / "checkpoints" / "pong-pico", "--data", ROOT / "samples" / "pong")
    succeeded(run_script("export_space", *shipped, "--out", tmp_path / "space"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--requirement", tmp_path / "space" / "requirements.txt"]
    subprocess.run(install, check=True)
    variables = {"SYSTEM": "spaces", "SPACE_ID": "user/name", "SPACE_AUTHOR_NAME": "user", "SPACE_REPO_NAME": "name"}
    assert play_in_a_frame(python, tmp_path / "space", tmp_path / "outer", **variables) == []
