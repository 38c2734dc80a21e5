"""Check that recorded actions are aligned with frames.

A newly pressed direction key changes how the picture moves. So the acceleration of the picture from frame t to t + 1
should correlate best with the change of direction in `actions[t]`, and less with the action before or after it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dreamrun.data.records import Record
from dreamrun.games.space import ActionSpace

LAGS = range(-2, 4)  # frames from an action to the motion
MIN_CORRELATION = 0.05  # below it the result is inconclusive
MIN_CHANGES = 100  # of direction; with fewer the result is inconclusive, unless the correlation is strong
# A correlation as strong as this after that many changes is no chance: its standard error is 1 / sqrt(changes).
STRONG_CORRELATION, MIN_STRONG_CHANGES = 0.4, 20
# Name -> pairs of opposite keys, and the axis of frames (T, H, W, C) along which they move the picture.
_DIRECTIONS = {"left/right": ((("LEFT", "RIGHT"), ("A", "D")), 2), "up/down": ((("UP", "DOWN"), ("W", "S")), 1)}


@dataclass(frozen=True)
class Alignment:
    """How well the picture's acceleration follows one control, by lag in frames."""

    control: str  # "left/right keys", "up/down keys" or the name of an axis: the one with the highest correlation
    correlations: dict[int, float]  # lag -> absolute correlation; it peaks at 0 if `actions[t]` leads to frame t + 1
    num_changes: int  # of the control's direction

    @property
    def best_lag(self) -> int:
        """The lag with the highest correlation."""
        return max(self.correlations, key=self.correlations.get)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        highest = max(self.correlations.values())
        strong = highest >= STRONG_CORRELATION and self.num_changes >= MIN_STRONG_CHANGES
        if not strong and (self.num_changes < MIN_CHANGES or highest < MIN_CORRELATION):
            return "inconclusive: too few changes of direction, or too little motion that follows them"
        if self.best_lag == 0:
            return "aligned: actions[t] leads from frame t to frame t + 1"
        return f"NOT ALIGNED: motion follows actions by {self.best_lag:+d} frames; expected 0"


def check_alignment(records: Iterable[Record], space: ActionSpace) -> Alignment:
    """Correlate changes of direction with the picture's acceleration. Returns the best control's result.

    Keeps the frames of one record at a time in memory.
    """
    controls = _controls(space)
    accelerations: dict[int, list[np.ndarray]] = {1: [], 2: []}  # by axis of frames
    changes: list[list[np.ndarray]] = [[] for _ in controls]
    for record in records:
        if len(record) <= len(LAGS) + 2:
            continue
        # Index i: the acceleration from frame i + 1 to i + 2, and the change of direction that should cause it.
        for frame_axis, series in accelerations.items():
            series.append(np.diff(_motion(record.frames, frame_axis)))
        values = space.name_values(record.actions)
        for series, (_, direction, _) in zip(changes, controls, strict=True):
            series.append(np.diff(values @ direction)[:-1])
    alignments = [
        Alignment(
            control,
            {lag: _correlation(series, accelerations[frame_axis], lag) for lag in LAGS},
            int(sum(np.count_nonzero(each) for each in series)),
        )
        for series, (control, _, frame_axis) in zip(changes, controls, strict=True)
    ]
    return max(alignments, key=lambda alignment: max(alignment.correlations.values()))


def _controls(space: ActionSpace) -> list[tuple[str, np.ndarray, int]]:
    """What can move the picture: name, direction (names,) in which each name pushes, axis of frames."""
    controls = []
    for name, (pairs, frame_axis) in _DIRECTIONS.items():
        negative, positive = next((pair for pair in pairs if set(pair) & set(space.all_keys)), pairs[0])
        direction = np.array([(positive in keys) * 1.0 - (negative in keys) for keys in space.keys])
        controls.append((f"{name} keys", direction, frame_axis))
    axes = [i for i, kind in enumerate(space.kinds) if kind == "axis"]
    return controls + [(space.names[i], np.eye(len(space.names))[i], frame_axis) for i in axes for frame_axis in (1, 2)]


def _motion(frames: np.ndarray, axis: int) -> np.ndarray:
    """(T - 1,) approximate motion of the picture along an axis from each frame to the next, in pixels.

    One step of Lucas and Kanade (1981) over the whole frame.
    """
    grey = frames.astype(np.float32).mean(-1)
    grey = sum(np.roll(grey, shift, axis) for shift in range(-2, 3)) / 5  # blurred: shifts of several pixels count too
    gradient = np.gradient(grey, axis=axis)
    gradient = (gradient[1:] + gradient[:-1]) / 2
    numerator = -(np.diff(grey, axis=0) * gradient).sum((1, 2))
    return numerator / (np.square(gradient).sum((1, 2)) + 1e-6)


def _correlation(causes: list[np.ndarray], effects: list[np.ndarray], lag: int) -> float:
    """Absolute correlation of causes with effects `lag` frames later, over all records; 0 if either is constant."""
    before, after = max(0, -lag), max(0, lag)
    cause = np.concatenate([c[before : len(c) - after] for c in causes] or [np.zeros(0)])
    effect = np.concatenate([e[after : len(e) - before] for e in effects] or [np.zeros(0)])
    if not cause.size or cause.std() == 0 or effect.std() == 0:
        return 0.0
    return float(abs(np.corrcoef(cause, effect)[0, 1]))
