"""Validation metrics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import random_model

from dreamrun.data.batch import Batch, to_float
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metrics import psnr, ssim
from dreamrun.data.metrics_log import read_metrics
from dreamrun.data.outcomes import Outcomes
from dreamrun.model.diffusion import alpha_bar
from dreamrun.model.outcome_head import NUM_BINS
from dreamrun.training import validation
from dreamrun.training.validation import Means, outcome_values, validate, validate_epoch


def test_means_are_of_the_values_of_all_ranks(monkeypatch):
    ranks = [Means() for _ in range(3)]  # the last has no values
    ranks[0].add("loss", torch.tensor([1.0, 2.0]))
    ranks[1].add("loss", torch.tensor([[6.0]]))
    ranks[1].add("recall", torch.tensor([], dtype=torch.bool))
    monkeypatch.setattr(validation, "all_gather_object", lambda _: [means._sums for means in ranks])
    means = ranks[2].read()
    assert means["loss"] == 3 and np.isnan(means["recall"])


def test_what_was_never_predicted_has_no_precision():
    logits = torch.zeros(1, 4, NUM_BINS + 1)
    logits[..., NUM_BINS // 2] = 9  # the bin of reward 0, everywhere
    nan = float("nan")
    outcomes = Outcomes(torch.zeros(1, 4, 3), torch.tensor([[1.0, 0, -1, nan]]), torch.full((1, 4), nan), torch.ones(1))
    values = outcome_values(logits, outcomes)
    assert (
        len(values["val/reward_loss"]) == 3 and len(values["val/end_loss"]) == len(values["val/reward_precision"]) == 0
    )
    assert values["val/reward_recall"].tolist() == [False, False]
    torch.testing.assert_close(values["val/reward_error"], torch.tensor([1.0, 0.0, 1.0]), atol=0.1, rtol=0)


def test_epoch_metrics_are_means_over_all_frames():
    """The network predicts frames that are too bright by known amounts; batches are of any size."""
    config = replace(random_model().config, prediction="x0")
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 200, (7, 6, 16, 24, 3)).astype(np.uint8)
    actions, seeds = np.zeros((7, 6, 3), np.float32), np.arange(7, dtype=np.uint64)

    batch = Batch(torch.from_numpy(frames), torch.from_numpy(actions), seeds, seeds, seeds)

    def measure(*parts):
        shown = iter(parts)

        def brighter(*_):
            predicted = to_float(frames[next(shown)]) + torch.linspace(0, 20, 6)[:, None, None, None] * 2 / 255
            return predicted.repeat(1, 2, 1, 1, 1)  # for the context, then for the noisy frames

        brighter.config, brighter.device = config, torch.device("cpu")
        return validate_epoch(brighter, [batch.select(part) for part in parts])

    metrics = measure(slice(0, 7))
    bright = (frames + np.linspace(0, 20, 6, dtype=int)[:, None, None, None]).astype(np.uint8)
    assert metrics["epoch/psnr"] == pytest.approx(psnr(frames, bright), abs=1e-4)
    assert metrics["epoch/ssim"] == pytest.approx(np.mean([ssim(a, b) for a, b in zip(frames, bright, strict=True)]))
    assert measure(slice(0, 5), slice(5, 7)) == pytest.approx(metrics)


def test_epoch_metrics_come_at_the_end_of_each_epoch(train_command, tmp_path):
    options = ("--batch-size", 8, "--clip-stride", 64, "--epochs", 2, "--epoch-clips", 9)
    assert train_command(*options)[0] == 0
    num_batches = ClipDataset(train_command.data, "train", 6, stride=64).num_batches(8)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "epoch/psnr" in line] == [num_batches, 2 * num_batches]


def test_validation_metrics_by_actions_and_noise_levels():
    """This network predicts a frame from its action alone: right under its own actions, wrong under another clip's."""
    config = replace(random_model().config, prediction="x0")
    actions = np.tile(np.eye(3, dtype=np.float32)[:, None], (16, 6, 1))  # consecutive clips have different actions
    frames = np.full((48, 6, 16, 24, 3), 255, np.uint8) * actions[..., None, None, :].astype(np.uint8)
    clips = torch.from_numpy(frames), torch.from_numpy(actions)
    batch = Batch(*clips, np.arange(48), np.zeros(48, np.int64), np.arange(48, dtype=np.uint64))

    class Painter(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, noisy, noise_level, actions, *attention):
            colour = actions[..., None, None] * 2 - 1
            return (colour + noise_level[..., None, None, None] * 0.1).expand_as(noisy)

    painter = Painter()
    painter.config = config
    metrics = validate(painter, [batch])
    assert 0 < metrics["val/loss"] < 0.05
    assert metrics["val/action_ratio"] > 50
    binned = {name: value for name, value in metrics.items() if "loss_noise" in name and np.isfinite(value)}
    assert len(metrics) == 10 and len(binned) == 8
    # The squared error grows with u^2, and its weight falls to 1.
    expected = {u: (0.1 * u) ** 2 / max(0.01, 1 - alpha_bar(torch.tensor(u)).item()) for u in (0.5625, 0.9375)}
    assert metrics["val/loss_noise_0.500"] == pytest.approx(expected[0.5625], rel=0.3)
    assert metrics["val/loss_noise_0.875"] == pytest.approx(expected[0.9375], rel=0.2)


def test_validation_uses_the_same_clips_every_time(pong_set):
    data = ClipDataset(pong_set, "val", 6)
    first, again = (next(data.batches(4)) for _ in range(2))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.actions, again.actions)
