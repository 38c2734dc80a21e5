"""Self-forcing: context frames that the sampler has generated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import values
from tiny import TINY, assert_one_line, random_model

from dreamrun.data.pixels import to_levels
from dreamrun.model import Sampler
from dreamrun.training import step
from dreamrun.training.self_forcing import generate_context

CLIPS, FRAMES = 5, 6


@pytest.fixture
def clips():
    model = random_model(replace(TINY, num_steps=2, prediction="x0"))
    generator = torch.Generator().manual_seed(0)
    frames = to_levels(torch.rand(CLIPS, FRAMES, *TINY.frame_shape, generator=generator) * 2 - 1) / 127.5 - 1
    actions = torch.eye(3)[torch.randint(3, (CLIPS, FRAMES), generator=generator)]
    return model, frames, actions, np.arange(10, 10 + CLIPS, dtype=np.uint64)


def num_prompt(context, frames):
    """How many frames at the start of a clip are the true ones."""
    is_same = (context == frames).flatten(1).all(1)
    return int(is_same.float().cumprod(0).sum())


def test_chosen_clips_are_rollouts_and_others_stay(clips):
    model, frames, actions, seeds = clips
    chosen = torch.tensor([True, False, True, True, False])
    context = generate_context(model, frames, actions, seeds, chosen, bf16=False)
    assert torch.equal(context[~chosen], frames[~chosen])
    lengths = {row: num_prompt(context[row], frames[row]) for row in torch.nonzero(chosen).flatten().tolist()}
    assert set(lengths.values()) <= {1, 2, 3}  # at most half the clip
    assert generate_context(model, frames, actions, seeds, torch.zeros(CLIPS, dtype=torch.bool), False) is frames

    for row, length in lengths.items():  # the plain loop of one rollout
        draw = np.random.default_rng(int(seeds[row]))
        assert int(draw.integers(1, 4)) == length
        sampler = Sampler(model)
        sampler.reset(
            frames[row : row + 1, :length], actions[row : row + 1, :length], seeds=[int(draw.integers(2**63))]
        )
        for t in range(length, FRAMES):
            frame = to_levels(sampler.step(actions[row : row + 1, t])) / 127.5 - 1
            assert (frame[0] - context[row, t]).abs().max() <= 1.01 / 127.5  # rounding, in a batch of another size


def test_a_rollout_does_not_depend_on_the_other_clips(clips):
    model, frames, actions, seeds = clips
    everything = torch.ones(CLIPS, dtype=torch.bool)
    together = generate_context(model, frames, actions, seeds, everything, bf16=False)
    for row in range(CLIPS):
        one = slice(row, row + 1)
        alone = generate_context(model, frames[one], actions[one], seeds[one], everything[one], bf16=False)
        assert (alone[0] - together[row]).abs().max() <= 1.01 / 127.5


def test_a_share_of_the_clips_is_forced(train_command, tmp_path, monkeypatch):
    shares = []

    def count(ema, x0, actions, seeds, chosen, bf16):
        shares.append(chosen.float().mean().item())
        return generate_context(ema, x0, actions, seeds, chosen, bf16)

    monkeypatch.setattr(step, "generate_context", count)
    options = ("--max-steps", 8, "--batch-size", 16, "--fill-share", 0, "--scheduled-sampling", 0.2, "--log-every", 1)
    assert train_command(*options, "--self-forcing", 0.5)[0] == 0
    assert 0.35 < np.mean(shares) < 0.65
    assert len(values(tmp_path / "run", "train/loss")) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--self-forcing", 1.5), "self_forcing is 1.5"),
        (("--self-forcing", 0.6, "--scheduled-sampling", 0.5), "together at most 1"),
        (("--self-forcing", 0.5, "--words", True), "single data set without words"),
    ],
)
def test_mistakes(train_command, options, words):
    code, _, err = train_command(*options)
    assert_one_line(code, err, words)
