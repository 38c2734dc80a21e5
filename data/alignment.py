"""Do the actions stand beside the right frames?

A key that is newly pressed changes how the picture moves. So the acceleration of the picture, frame t to t + 1, must
correlate most with the change of direction held in `actions[t]`, not with that of the action before or after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data.actions import ActionSpace
from data.records import Record

LAGS = range(-2, 4)  # frames from an action to what moves
MIN_CORRELATION = 0.05  # below it, nothing can be said
MIN_CHANGES = 100  # of direction, likewise
_DIRECTIONS = {"left/right": ((("LEFT", "RIGHT"), ("A", "D")), 2), "up/down": ((("UP", "DOWN"), ("W", "S")), 1)}


@dataclass(frozen=True)
class Alignment:
    """How well the picture's acceleration follows the keys, by lag in frames."""

    what: str  # "left/right keys", "up/down keys" or an axis by its name, whichever tells most
    correlations: dict[int, float]  # lag -> absolute correlation; lag 0 is right for `actions[t]` leads to t + 1
    num_changes: int  # of the direction held

    @property
    def best_lag(self) -> int:
        """The lag at which the correlation peaks."""
        return max(self.correlations, key=self.correlations.get)

    @property
    def verdict(self) -> str:
        """One line for people."""
        if self.num_changes < MIN_CHANGES or max(self.correlations.values()) < MIN_CORRELATION:
            return "inconclusive: too few changes of direction, or too little that moves with them"
        if self.best_lag == 0:
            return "aligned: actions[t] leads from frame t to frame t + 1"
        return f"NOT ALIGNED: what moves follows actions by {self.best_lag:+d} frames; 0 is right"


def check_alignment(records: Iterable[Record], space: ActionSpace) -> Alignment:
    """Correlate changes of the direction pushed with the picture's acceleration, where that tells most.

    One record is held at a time.
    """
    directions = _directions(space)
    accelerations: dict[int, list[np.ndarray]] = {1: [], 2: []}  # by axis of frames
    changes: list[list[np.ndarray]] = [[] for _ in directions]
    for record in records:
        if len(record) <= len(LAGS) + 2:
            continue
        # Position i: what happens from frame i + 1 to i + 2, and the action that should lead there.
        for frame_axis, found in accelerations.items():
            found.append(np.diff(_motion(record.frames, frame_axis)))
        held = space.held(record.actions)
        for found, (_, pushes, _) in zip(changes, directions, strict=True):
            found.append(np.diff(held @ pushes)[:-1])
    alignments = [
        Alignment(
            what,
            {lag: _correlation(change, accelerations[frame_axis], lag) for lag in LAGS},
            int(sum(np.count_nonzero(each) for each in change)),
        )
        for change, (what, _, frame_axis) in zip(changes, directions, strict=True)
    ]
    return max(alignments, key=lambda alignment: max(alignment.correlations.values()))


def _directions(space: ActionSpace) -> list[tuple[str, np.ndarray, int]]:
    """What pushes the picture: its name, how far each of the space's names pushes, and along which axis of frames."""
    found = []
    for what, (pairs, frame_axis) in _DIRECTIONS.items():
        negative, positive = next((pair for pair in pairs if set(pair) & set(space.all_keys)), pairs[0])
        pushes = np.array([(positive in keys) * 1.0 - (negative in keys) for keys in space.keys])
        found.append((f"{what} keys", pushes, frame_axis))
    axes = [i for i, kind in enumerate(space.kinds) if kind == "axis"]
    return found + [(space.names[i], np.eye(len(space.names))[i], frame_axis) for i in axes for frame_axis in (1, 2)]


def _motion(frames: np.ndarray, axis: int) -> np.ndarray:
    """(T - 1,) how far the picture moves along an axis from each frame to the next, in pixels, roughly.

    One step of Lucas and Kanade (1981) over the whole frame.
    """
    grey = frames.astype(np.float32).mean(-1)
    grey = sum(np.roll(grey, shift, axis) for shift in range(-2, 3)) / 5  # wide edges: shifts of some pixels are seen
    gradient = np.gradient(grey, axis=axis)
    gradient = (gradient[1:] + gradient[:-1]) / 2
    over = -(np.diff(grey, axis=0) * gradient).sum((1, 2))
    return over / (np.square(gradient).sum((1, 2)) + 1e-6)


def _correlation(causes: list[np.ndarray], effects: list[np.ndarray], lag: int) -> float:
    """Absolute correlation of causes with effects that stand `lag` places later, over all records; 0 if none vary."""
    before, after = max(0, -lag), max(0, lag)
    cause = np.concatenate([c[before : len(c) - after] for c in causes] or [np.zeros(0)])
    effect = np.concatenate([e[after : len(e) - before] for e in effects] or [np.zeros(0)])
    if not cause.size or cause.std() == 0 or effect.std() == 0:
        return 0.0
    return float(abs(np.corrcoef(cause, effect)[0, 1]))
