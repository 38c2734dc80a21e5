"""Files of an earlier version still work. Those in `v1/` were made by the code before names and layouts changed.

Only the frames of shipped models in `frames.npz` are made again, when a model is replaced.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import values
from tiny import SMALLEST, command, succeeded

from dreamrun.data.batch import to_float, to_uint8
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metadata import read_metadata
from dreamrun.model import PRESETS, Sampler, WorldModel
from dreamrun.model.inference import prepare_for_inference
from dreamrun.model.options import SamplerSettings
from dreamrun.play.replay import Replay

OLD, ROOT = Path(__file__).parent / "v1", Path(__file__).parents[2]
CPU = torch.device("cpu")


def assert_same_pictures(frames: np.ndarray, expected: np.ndarray) -> None:
    """Equal, but for the rounding of another processor."""
    difference = np.abs(frames.astype(int) - expected)
    assert frames.shape == expected.shape and difference.max() <= 2 and difference.mean() < 0.01


@pytest.fixture
def old_run(tmp_path):
    shutil.copytree(OLD / "run", tmp_path / "run")
    shutil.copytree(OLD / "pong", tmp_path / "pong")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("checkpoint", "samples"), [("coinrun-nano", "checkpoints/samples"), ("pong-pico", "checkpoints/samples-pong")]
)
def test_shipped_checkpoints_give_the_same_frames(checkpoint, samples):
    expected = np.load(OLD / "frames.npz")[checkpoint]
    model = WorldModel.from_pretrained(ROOT / "checkpoints" / checkpoint)
    dataset = ClipDataset(ROOT / samples, "test", clip_frames=1)  # the old place of the samples
    record, num_frames = next(dataset.records([2])), 4 + len(expected)
    actions = torch.from_numpy(dataset.metadata.actions.vectors(record.leading_actions()[:num_frames]))[None]
    sampler = Sampler(
        prepare_for_inference(model, CPU, bf16=False, packed=False), SamplerSettings(num_steps=4, seed=3, guidance=1.0)
    )
    sampler.reset(to_float(record.frames[:4].copy())[None], actions[:, :4])
    frames = [sampler.step(actions[:, t]) for t in range(4, num_frames)]
    assert_same_pictures(to_uint8(torch.cat(frames)), expected)


def test_an_old_checkpoint_knows_its_game():
    model = WorldModel.from_pretrained(OLD / "run" / "checkpoints" / "step_0000005")
    assert model.game.environment == "pong" and model.game.actions.names == ("stay", "up", "down")
    for space in (model.game.actions, read_metadata(OLD / "pong").actions):
        assert space.noop == space.parse("stay") == space.parse("noop") == 0


def test_an_old_run_resumes_with_its_old_options(old_run, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "smallest", replace(SMALLEST, num_steps=10))
    options = "--preset smallest --batch-size 4 --log-every 1 --val-every 5 --rollout-every 10 --val-batches 2"
    options += " --checkpoint-every 5 --warmup-steps 2 --wandb off --clip-stride 10 --max-steps 10 --optimizer muon"
    options += " --noise-levels teacher-forcing --own-frames=0.5 --recompute --bf16 False --device cpu --resume auto"
    options += " --rollout-frames 8"
    paths = ("--data", old_run.parent / "pong", "--out", old_run)
    out = succeeded(command(monkeypatch, capsys, "train_world_model", *paths, *options.split()))
    assert "step_0000005, step 5" in out
    expected = [json.loads(line) for line in (OLD / "run_metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "val/loss", "epoch/val_loss", "rollout/psnr_1"):
        by_step = {line["step"]: line[name] for line in expected if name in line}
        assert values(old_run, name) == pytest.approx(by_step, rel=1e-3), name


def test_an_old_replay_plays(old_run, monkeypatch, capsys):
    checkpoint = old_run / "checkpoints" / "step_0000005"
    model = WorldModel.from_pretrained(checkpoint)
    frames = Replay.read(OLD / "replay.json", model).generate_frames(prepare_for_inference(model, CPU, bf16=False))
    assert_same_pictures(frames, np.load(OLD / "replay_frames.npz")["frames"])
    options = ("--replay", OLD / "replay.json", "--checkpoint", checkpoint, "--output", old_run / "again.mp4")
    assert command(monkeypatch, capsys, "scripts.infer", *options)[0] == 0
