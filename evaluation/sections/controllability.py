"""Controllability (counterfactual action accuracy): does a rollout follow its action as the real game does?

Shapes: S game states, K actions, T frames, H x W pixels, C channels, F distinct futures.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from einops import rearrange

from dreamrun.data.plots import Line, line_plot
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.counterfactuals import Counterfactuals, identical_groups
from dreamrun.evaluation.section import Block, Picture, Section, Table, Text, format_percent
from dreamrun.evaluation.statistics import estimate

WORDS = (
    "The state of the real game is saved, and the game continues from it under each of several held actions. The world "
    "model continues the same real frames under the same actions. A rollout is correct at a frame if its squared error "
    "to the true future of its own action is smaller than to every other future; a tie is wrong. Futures that are "
    "identical at that frame count as one. Chance is the mean of 1 / number of distinct futures; a model that ignores "
    "actions reaches exactly this."
)
HORIZONS = (1, 2, 4, 8, 16, 32)  # frames after the state
HEADLINE_FRAMES = (1, 8, 32)


def measure(context: EvaluationContext) -> dict[str, Any]:
    """The names of the held actions, and the controllability by frame."""
    counterfactuals = context.counterfactuals
    return {
        "actions": [context.space.format(action) for action in counterfactuals.actions],
        "by_frame": controllability(counterfactuals, context.counterfactual_rollouts),
    }


def controllability(
    counterfactuals: Counterfactuals, rollouts: np.ndarray, horizons: tuple[int, ...] = HORIZONS
) -> list[dict[str, Any]]:
    """Controllability, chance, and their difference per state (which has a narrower interval) at each horizon."""
    table = []
    for horizon in (h for h in horizons if h <= counterfactuals.futures.shape[2]):
        accuracy, chance = controllability_by_state(counterfactuals, rollouts, horizon)
        values = {"controllability": accuracy, "chance": chance, "above_chance": accuracy - chance}
        table.append({"frame": horizon, **{name: estimate(value) for name, value in values.items()}})
    return table


def controllability_by_state(
    counterfactuals: Counterfactuals, rollouts: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counterfactual action accuracy of each state, at the frame `horizon` after it.

    Futures with the same frame there count as one. A state counts if at least two distinct futures are left. A rollout
    is correct if its frame is nearer, in squared error, to the future of its own action than to every other future;
    a tie is wrong. A model that ignores actions is nearest to the same future under all actions. It is correct
    for at most one of F distinct futures, so its mean accuracy is at most 1 / F.

    Returns:
        Accuracy (S,): the share of distinct futures that are matched. Chance (S,): 1 / F. Both are NaN for states that
        do not count.
    """
    accuracy, chance = np.full((2, len(rollouts)), np.nan)
    for state in range(len(rollouts)):
        running = np.flatnonzero(counterfactuals.lengths[state] >= horizon)
        if not len(running):
            continue
        future_frames = rearrange(counterfactuals.futures[state, running, horizon - 1], "k ... -> k (...)")
        future_ids = identical_groups(future_frames)
        _, first_of_group = np.unique(future_ids, return_index=True)
        distinct = future_frames[first_of_group]
        num_futures = len(distinct)
        if num_futures < 2:
            continue
        rollout_frames = rearrange(rollouts[state, running, horizon - 1], "k ... -> k 1 (...)").astype(np.int64)
        errors = np.square(rollout_frames - distinct).sum(-1)  # (K, F) integers, so ties are exact
        is_own_future = future_ids[:, None] == np.arange(num_futures)
        nearest_other = np.where(is_own_future, np.iinfo(errors.dtype).max, errors).min(1)
        correct = errors[is_own_future] < nearest_other
        accuracy[state] = np.mean([correct[future_ids == future].mean() for future in range(num_futures)])
        chance[state] = 1 / num_futures
    return accuracy, chance


def blocks(report: dict[str, Any]) -> Iterator[Block]:
    section, pictures = report["counterfactuals"], report["pictures"].get("shown", {})
    yield Text(f"{WORDS} The actions: {', '.join(section['actions'])}.")
    measured = [row for row in section["by_frame"] if row["controllability"]]
    labels = {
        "controllability": "controllability",
        "chance": "chance",
        "above_chance": "controllability above chance, per state",
    }
    rows = [[label, *(format_percent(row[name]) for row in measured)] for name, label in labels.items()]
    counts = ["n states", *(str(row["controllability"]["n"]) for row in measured)]
    frames = [row["frame"] for row in measured]
    yield Table(["frame after the state", *map(str, frames)], [*rows, counts])
    lines = [Line(name, frames, [row[name] for row in measured]) for name in ("controllability", "chance")]
    yield Picture("Controllability by frame", line_plot("controllability", "frame after the state", lines, top=1.0))
    if "futures" in pictures:
        yield Picture("Futures of one state: real game above, rollouts below", pictures["futures"], wide=True)


def headlines(report: dict[str, Any]) -> Iterator[list[str]]:
    for row in report["counterfactuals"]["by_frame"]:
        accuracy = row["controllability"]
        if row["frame"] in HEADLINE_FRAMES and accuracy:
            reference = f"chance: {format_percent(row['chance'])}; {accuracy['n']} states"
            yield [f"Controllability at frame {row['frame']}", format_percent(accuracy), reference]


CONTROLLABILITY = Section(
    "counterfactuals", measure, "Controllability (counterfactual action accuracy)", blocks, headlines, of_export=True
)
