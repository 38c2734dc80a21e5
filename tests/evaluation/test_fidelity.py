"""PSNR and SSIM of artificial rollouts."""

import numpy as np
import pytest
from artificial import PROMPT, noise

from dreamrun.evaluation.sections.fidelity import example_clips, fidelity


def after_prompt(clips):
    """The real frames after the prompts, their lengths, and the last prompt frames."""
    return clips.frames[:, PROMPT:], clips.lengths - PROMPT, clips.frames[:, PROMPT - 1]


def test_a_perfect_rollout_has_no_error(clips):
    truth, lengths, last_prompt_frame = after_prompt(clips)
    result = fidelity(truth, lengths, last_prompt_frame, truth.copy(), None)
    assert all(e["value"] is None and e["low"] is None for e in result["dream"]["psnr"])  # infinite
    assert all(e["value"] == pytest.approx(1.0) for e in result["dream"]["ssim"])
    assert [e["n"] for e in result["dream"]["psnr"]] == [3] * 12 + [2] * 8
    assert set(result) == {"dream", "repeat_prompt"}


def test_a_frozen_rollout_equals_the_baseline_that_repeats_the_prompt(clips):
    truth, lengths, last_prompt_frame = after_prompt(clips)
    frozen = np.repeat(last_prompt_frame[:, None], truth.shape[1], axis=1)
    result = fidelity(truth, lengths, last_prompt_frame, frozen, noise(truth.shape))
    assert result["dream"] == result["repeat_prompt"] != result["other_actions"]


def test_noise_has_the_error_that_theory_predicts(clips):
    truth, lengths, last_prompt_frame = after_prompt(clips)
    levels = np.arange(256.0)
    # For each true level, the mean squared distance of all levels to it.
    expected = np.square(levels[:, None] - levels).mean(1)[truth[:, 0]].mean()
    result = fidelity(truth, lengths, last_prompt_frame, noise(truth.shape), None)["dream"]
    assert result["psnr"][0]["value"] == pytest.approx(10 * np.log10(255**2 / expected), abs=0.1)
    assert result["ssim"][0]["value"] < 0.1


def test_example_clips_are_chosen_by_the_error_of_one_frame(clips):
    truth, lengths, _ = after_prompt(clips)
    rollouts = truth.copy()
    rollouts[0, 15] //= 2
    rollouts[2, 15] += 1
    rollouts[1] = 0  # this clip has ended before
    examples = example_clips(truth, rollouts, lengths)
    assert (examples["best"]["clip"], examples["worst"]["clip"], examples["best"]["frame"]) == (2, 0, 16)
    assert examples["best"]["psnr"] > examples["worst"]["psnr"]
