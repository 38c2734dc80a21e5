"""The outcome head on held-out play: does it see rewards and ends, and are its probabilities right?

Shapes: S clips, T frames.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dreamrun.data.dataset import ClipDataset
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.section import Block, Section, Table, Text, format_estimate, format_percent
from dreamrun.evaluation.statistics import estimate
from dreamrun.model.inference import autocast
from dreamrun.model.loss import context_tokens, validation_corruption
from dreamrun.model.outcome_head import check_outcome_head, to_outcome

WORDS = (
    "The outcome head reads real held-out frames and the action taken at each. It predicts the reward that follows and "
    "the probability that the episode ends. A reward counts as predicted if it is at least half of the smallest real "
    "one; an end, if its probability is at least one half. The error is the mean absolute error; that of always "
    "predicting 0 stands beside it. Calibration: the mean of what really came, by what was predicted."
)
# Edges of the bins of predictions that the calibration is shown for. Those of rewards are shares of the largest reward.
REWARD_EDGES = (-0.9, -0.5, -0.1, -0.01, 0.01, 0.1, 0.5, 0.9)
END_EDGES = (0.01, 0.05, 0.2, 0.4, 0.6, 0.8)


@torch.inference_mode()
def measure(context: EvaluationContext) -> dict[str, Any]:
    """Predicted and real rewards and ends, on clips as long as the model's window, at frames after a whole prompt.

    A reward counts as predicted if the expected reward is at least half of the smallest real one that is not 0; it is
    right if a reward of the same sign came. An end counts as predicted from a probability of 1/2 on.

    Returns:
        For `reward` and `end`, unless the records do not know them: estimates of `precision` and `recall` (None if
        nothing was predicted, or nothing happened), of `error`, the mean absolute error, and of `trivial_error`, that
        of always predicting 0; the number of `events`; and `calibration`, rows of what was predicted and what came.
    """
    check_outcome_head(context.model.config)
    model, window, config = context.model.to(context.device), context.model.config.window_frames, context.config
    num_context = min(config.num_prompt_frames, window) - 1
    dataset = ClipDataset(context.data, context.split, window, seed=config.seed, outcomes=True)
    parts: list[tuple[np.ndarray, ...]] = []
    for batch in dataset.sequential_batches(config.batch_size, context.sizes["outcome_clips"]):
        clips = batch.to(model.device)
        x0, outcomes = clips.x0, clips.outcomes
        assert outcomes is not None
        corruption = validation_corruption(x0.shape, batch.seeds, model.device)
        with autocast(model.device):
            tokens = context_tokens(model, model.config, x0, clips.actions, corruption)
            predicted = to_outcome(model.outcome_logits(tokens, outcomes.next_actions))
        values = (predicted.reward, outcomes.rewards, predicted.end, outcomes.ends)
        parts.append(tuple(value[:, num_context:].float().cpu().numpy() for value in values))
    rewards, real_rewards, ends, real_ends = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    sizes = np.abs(real_rewards[np.nan_to_num(real_rewards) != 0])
    edges = np.array(REWARD_EDGES) * (sizes.max() if len(sizes) else 1.0)
    return {
        "reward": compare_with_truth(rewards, real_rewards, 0.5 * (sizes.min() if len(sizes) else 1.0), edges),
        "end": compare_with_truth(ends, real_ends, 0.5, np.array(END_EDGES)),
    }


def compare_with_truth(
    predicted: np.ndarray, real: np.ndarray, threshold: float, edges: np.ndarray
) -> dict[str, Any] | None:
    """Figures of predictions (S, T) of real values (S, T), NaN where unknown; None if all are. Clips are the units."""
    known = np.isfinite(real)
    if not known.any():
        return None
    real = np.nan_to_num(real)
    is_predicted, is_event = (np.abs(predicted) >= threshold) & known, (real != 0) & known
    is_right = is_predicted & is_event & (np.sign(predicted) == np.sign(real))
    bins, rows = np.digitize(predicted, edges), []
    for number in range(len(edges) + 1):
        chosen = known & (bins == number)
        if chosen.any():
            means = float(predicted[chosen].mean()), float(real[chosen].mean())
            rows.append({"predicted": means[0], "real": means[1], "num_frames": int(chosen.sum())})

    def ratio(numerator: np.ndarray, denominator: np.ndarray) -> dict[str, Any] | None:
        return estimate(numerator.sum(1), denominator.sum(1))

    return {
        "precision": ratio(is_right, is_predicted),
        "recall": ratio(is_right, is_event),
        "error": ratio(np.abs(predicted - real) * known, known),
        "trivial_error": ratio(np.abs(real) * known, known),
        "events": int(is_event.sum()),
        "calibration": rows,
    }


def blocks(report: dict[str, Any]) -> Iterator[Block]:
    yield Text(WORDS)
    measured = {name: section for name, section in report["outcomes"].items() if section}
    rows = [
        [
            name,
            *(format_percent(section[figure]) for figure in ("precision", "recall")),
            *(format_estimate(section[figure], 4) for figure in ("error", "trivial_error")),
            str(section["events"]),
        ]
        for name, section in measured.items()
    ]
    yield Table(["", "precision", "recall", "error", "error of always 0", "events"], rows)
    for name, section in measured.items():
        rows = [
            [f"{row['predicted']:.3f}", f"{row['real']:.3f}", str(row["num_frames"])] for row in section["calibration"]
        ]
        yield Table([f"{name}, predicted (mean)", "real (mean)", "frames"], rows)


OUTCOMES = Section("outcomes", measure, "Rewards and ends", blocks, sizes={"outcome_clips": (1000, 100)})
