"""The command scripts.export_space: the folder that it writes, and its upload to a fake of the Hub."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import frame_number, wait_until
from playing import can_play
from screenshots import CHROMIUM, chromium, wait_for_phase
from tiny import assert_one_line

from play.launch import find_port

REQUIRED = os.environ.get("DREAMRUN_BROWSER") == "required"


@pytest.fixture
def export(run_script, play_config, pong_set, tmp_path):
    """export(*options): run the command; exit code, standard output, standard error."""
    options = ("--checkpoint", play_config.checkpoint, "--data", pong_set, "--out", tmp_path / "space")
    return lambda *more: run_script("export_space", *options, *more)


def test_the_folder_has_all_that_a_space_needs(export, tmp_path):
    code, out, err = export("--title", "My game", "--max-players", 3, "--torch-index", "https://index.example/cpu")
    assert code == 0 and "python app.py" in out, err
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
    assert (space / "play" / "stage" / "stage.js").exists() and not list(space.rglob("__pycache__"))
    assert "max_players=3" in (space / "app.py").read_text()


def test_a_folder_with_files_is_not_overwritten(export, tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "precious.txt").write_text("mine")
    code, _, err = export()
    assert_one_line(code, err, "space is not empty")
    assert [path.name for path in (tmp_path / "space").iterdir()] == ["precious.txt"]


def test_the_space_is_uploaded(export, hub):
    code, out, err = export("--push", "user/name", "--private")
    assert code == 0 and "uploaded to" in out, err
    assert hub["created"]["type"] == "space" and hub["created"]["sdk"] == "gradio"
    assert hub["created"]["visibility"] == "private"
    assert {"app.py", "README.md", "requirements.txt", "checkpoint/model.safetensors", "play/ui.py"} <= set(
        hub["files"]
    )


def test_nothing_is_written_without_a_token(export, hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = export("--push", "user/name")
    assert_one_line(code, err, "not logged in", "HF_TOKEN")
    assert not (tmp_path / "space").exists() and hub["created"] is None


@pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium")
def test_the_space_plays_in_a_frame_of_another_origin(export, tmp_path):
    """As huggingface.co shows a Space, which runs on a host name of its own behind a proxy."""
    assert export()[0] == 0
    port, outer_port = find_port("127.0.0.1", 0), find_port("127.0.0.1", 0)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "index.html").write_text(
        f'<iframe src="http://localhost:{port}/" width=1200 height=800></iframe>'
    )
    outer = [sys.executable, "-m", "http.server", str(outer_port), "--bind", "127.0.0.1", "--directory"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"SPACE_HOST": f"localhost:{port}", "FRAME_ANCESTORS": f"http://127.0.0.1:{outer_port}"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    python = Path(os.environ.get("DREAMRUN_SPACE_PYTHON", sys.executable))  # of an environment with its requirements
    app = subprocess.Popen(
        [python, "app.py"], cwd=tmp_path / "space", env=environment, stdout=subprocess.PIPE, text=True
    )
    server = subprocess.Popen([*outer, str(tmp_path / "outer")], stderr=subprocess.DEVNULL)
    try:
        while "play at http" not in app.stdout.readline():
            assert app.poll() is None
        with chromium() as browser:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{outer_port}/")
            frame = page.wait_for_selector("iframe").content_frame()
            wait_for_phase(frame, "ready")
            page.mouse.click(300, 300)  # the frame gets the keyboard
            page.keyboard.down("ArrowUp")
            wait_until(lambda: frame_number(frame) > 3)
        assert can_play(f"http://localhost:{port}")
    finally:
        for process in (app, server):
            process.terminate()
            process.communicate(timeout=20)
