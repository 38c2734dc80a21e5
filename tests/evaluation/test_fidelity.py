"""PSNR and SSIM of artificial rollouts."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from artificial import PROMPT, noise

from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.sections.fidelity import curves, example_clips, measure


def after_prompt(clips):
    """The real frames after the prompts, and their lengths."""
    return clips.frames[:, PROMPT:], clips.lengths - PROMPT


def test_a_perfect_rollout_has_no_error(clips):
    truth, lengths = after_prompt(clips)
    result = curves(truth, truth.copy(), lengths)
    assert all(e["value"] is None and e["low"] is None for e in result["psnr"])  # infinite
    assert all(e["value"] == pytest.approx(1.0) for e in result["ssim"])
    assert [e["n"] for e in result["psnr"]] == [3] * 12 + [2] * 8


def test_a_frozen_rollout_equals_the_baseline_that_repeats_the_prompt(clips):
    truth, lengths = after_prompt(clips)
    context = SimpleNamespace(
        clips=clips, truth=truth, truth_lengths=lengths, space=clips.space, config=EvaluateConfig(checkpoint="x"),
        rollouts=np.repeat(clips.frames[:, PROMPT - 1 : PROMPT], truth.shape[1], axis=1),
        continue_clips=lambda name, actions: noise(truth.shape),
    )  # fmt: skip
    result = measure(context)
    assert result["dream"] == result["repeat_prompt"] != result["other_actions"]
    context.clips, context.truth = (replace(clips, frames=clips.frames[:1]), truth[:1])
    context.truth_lengths, context.rollouts = lengths[:1], context.rollouts[:1]
    assert set(measure(context)) == {"dream", "repeat_prompt", "cases"}  # there is no other clip


def test_noise_has_the_error_that_theory_predicts(clips):
    truth, lengths = after_prompt(clips)
    levels = np.arange(256.0)
    # For each true level, the mean squared distance of all levels to it.
    expected = np.square(levels[:, None] - levels).mean(1)[truth[:, 0]].mean()
    result = curves(truth, noise(truth.shape), lengths)
    assert result["psnr"][0]["value"] == pytest.approx(10 * np.log10(255**2 / expected), abs=0.1)
    assert result["ssim"][0]["value"] < 0.1


def test_example_clips_are_chosen_by_the_error_of_one_frame(clips):
    truth, lengths = after_prompt(clips)
    rollouts = truth.copy()
    rollouts[0, 15] //= 2
    rollouts[2, 15] += 1
    rollouts[1] = 0  # this clip has ended before
    examples = example_clips(truth, rollouts, lengths)
    assert (examples["best"]["clip"], examples["worst"]["clip"], examples["best"]["frame"]) == (2, 0, 16)
    assert examples["best"]["psnr"] > examples["worst"]["psnr"]
