"""Without Procgen everything works but its own games."""

import re
import sys
from pathlib import Path

import pytest
from tiny import refused, succeeded

import dreamrun
from dreamrun.play.launch import PlayConfig, load_engines

BLOCKED = ("procgen", "gym3", "gym", "ale_py")


@pytest.fixture
def without_procgen(monkeypatch):
    for name in BLOCKED:
        monkeypatch.setitem(sys.modules, name, None)


def test_no_module_needs_procgen_to_be_imported():
    root = Path(dreamrun.__file__).parent
    for package in ("games", "model", "data", "training", "editing", "evaluation", "play", "envs", "export"):
        for path in (root / package).rglob("*.py"):
            for line in path.read_text().splitlines():  # those inside functions are indented
                assert not re.match(rf"(import|from) ({'|'.join(BLOCKED)})\b", line), path


def test_training_infer_and_play_need_no_procgen(without_procgen, train_command, run_script, tmp_path, pong_set):
    succeeded(train_command("--max-steps", 1))
    checkpoint = tmp_path / "run" / "checkpoints" / "latest"
    infer = ("--checkpoint", checkpoint, "--data", pong_set, "--num-frames", 6, "--num-samples", 1)
    succeeded(run_script("infer", *infer))
    assert len(load_engines(PlayConfig(checkpoint=str(checkpoint), data=pong_set))[""].gallery) > 0


def test_its_games_say_how_to_add_it(without_procgen, tmp_path, run_script):
    result = run_script("collect", "--env", "coinrun", "--out", tmp_path / "set")
    refused(result, "Procgen is not installed", "./setup.sh", "pip install --no-deps procgen-mirror")
