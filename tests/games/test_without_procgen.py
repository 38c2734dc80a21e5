"""Without Procgen everything works but its own games."""

import subprocess
import sys

import pytest
from tiny import SMALLEST, assert_one_line, command

from dreamrun.model import PRESETS
from dreamrun.play.launch import PlayConfig, load_engines

BLOCKED = ("procgen", "gym3", "gym", "ale_py")
IMPORT_ALL = f"""
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys({BLOCKED})
for package in ("games", "model", "data", "training", "editing", "evaluation", "play", "envs"):
    folder = importlib.import_module(f"dreamrun.{{package}}").__path__
    for module in pkgutil.walk_packages(folder, f"dreamrun.{{package}}."):
        if "stable_baselines" not in module.name:
            importlib.import_module(module.name)
"""


@pytest.fixture
def without_procgen(monkeypatch):
    for name in BLOCKED:
        monkeypatch.setitem(sys.modules, name, None)


def test_no_module_needs_procgen_to_be_imported():
    subprocess.run([sys.executable, "-c", IMPORT_ALL], check=True)


def test_training_infer_and_play_need_no_procgen(without_procgen, monkeypatch, capsys, tmp_path, pong_set):
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)
    options = "--preset smallest --batch-size 4 --val-batches 1 --wandb off --clip-stride 10"
    paths = ("--data", pong_set, "--out", tmp_path / "run")
    train = (*paths, *options.split(), "--max-steps", 1, "--device", "cpu")
    code, _, err = command(monkeypatch, capsys, "train_world_model", *train)
    assert code == 0, err
    checkpoint = tmp_path / "run" / "checkpoints" / "latest"
    infer = ("--checkpoint", checkpoint, "--data", pong_set, "--num-frames", 6, "--num-samples", 1)
    assert command(monkeypatch, capsys, "scripts.infer", *infer, "--output", tmp_path / "dream.mp4")[0] == 0
    assert len(load_engines(PlayConfig(checkpoint=str(checkpoint), data=pong_set))[""].gallery) > 0


def test_its_games_say_how_to_add_it(without_procgen, monkeypatch, capsys, tmp_path):
    code, _, err = command(monkeypatch, capsys, "scripts.collect", "--env", "coinrun", "--out", tmp_path / "set")
    assert_one_line(code, err, "Procgen is not installed", "./setup.sh", "pip install --no-deps procgen-mirror")
