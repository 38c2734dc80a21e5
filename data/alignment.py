"""Check that recorded actions are aligned with frames.

A newly pressed direction key changes how the picture moves: at the lag of the motion, what is new in the actions
correlates with what is new in the motion. Keys are held, so a plain correlation has further peaks: a change of
direction is the opposite of half of the change before it, one hold earlier. Both series are therefore prewhitened
first (Haugh, "Checking the independence of two covariance-stationary time series", 1976), and the sign with which a
control moves the picture is the same at all lags.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dreamrun.data.records import Record
from dreamrun.games.space import ActionSpace

MIN_LAGS, MAX_LAGS = 20, 64  # frames to search in both directions; twice the usual hold, within these limits
USUAL_HOLD_PERCENTILE = 90
# In standard errors: of the correlation at the best lag, and of its margin over any other lag. With unrelated actions,
# 320 synthetic sets reached 3.6 and 1.4, never both.
MIN_EVIDENCE, MIN_MARGIN = 3.5, 2.0
# Name -> pairs of opposite keys, and the axis of frames (T, H, W, C) along which they move the picture.
_DIRECTIONS = {"left/right": ((("LEFT", "RIGHT"), ("A", "D")), 2), "up/down": ((("UP", "DOWN"), ("W", "S")), 1)}


@dataclass(frozen=True)
class Alignment:
    """How well the picture's motion follows the controls, by lag in frames."""

    control: str  # "left/right keys", "up/down keys" or the name of an axis: the one that it follows best
    correlations: dict[int, float]  # lag -> correlation; it peaks at 0 if `actions[t]` leads to frame t + 1
    evidence: float = 0.0  # the highest correlation, in its standard errors
    margin: float = 0.0  # by which it exceeds the correlation at the rival lag, in standard errors
    rival: int = 0  # the lag whose correlation may be as high

    @property
    def best_lag(self) -> int:
        """The lag with the highest correlation."""
        return max(self.correlations, key=self.correlations.get)

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.evidence < MIN_EVIDENCE:
            return "inconclusive: too few changes of direction, or too little motion that follows them"
        if self.margin < MIN_MARGIN:
            return f"inconclusive: motion follows actions by {self.best_lag:+d} or {self.rival:+d} frames; expected 0"
        if self.best_lag == 0:
            return "aligned: actions[t] leads from frame t to frame t + 1"
        return f"NOT ALIGNED: motion follows actions by {self.best_lag:+d} frames; expected 0"


def check_alignment(records: Iterable[Record], space: ActionSpace) -> Alignment:
    """Correlate what is new in the controls with what is new in the picture's motion, over all controls together.

    Keeps the frames of one record at a time in memory.
    """
    controls = _controls(space)
    motions: dict[int, list[np.ndarray]] = {1: [], 2: []}  # by axis of frames
    directions: list[list[np.ndarray]] = [[] for _ in controls]
    for record in records:
        if len(record) < 3:
            continue
        # Index t: the motion from frame t to t + 1, and the direction that should cause it.
        for frame_axis, series in motions.items():
            series.append(_motion(record.frames, frame_axis))
        values = space.name_values(record.actions[:-1])
        for series, (_, direction, _) in zip(directions, controls, strict=True):
            series.append(values @ direction)
    max_lag = _max_lag([each for series in directions for each in series])
    effects = {axis: _windows(_prewhitened(series), max_lag) for axis, series in motions.items()}
    moving = [
        (control, cause, effects[frame_axis])
        for series, (control, _, frame_axis) in zip(directions, controls, strict=True)
        if (cause := np.concatenate([*_padded(_prewhitened(series), max_lag), np.zeros(max_lag)])).any()
        and effects[frame_axis].any()
    ]
    if not moving:
        return Alignment(controls[0][0], {0: 0.0})
    return _compare_lags(moving, max_lag)


def _compare_lags(moving: list[tuple[str, np.ndarray, np.ndarray]], max_lag: int) -> Alignment:
    """The likeliest lag of all controls together. Each has its own sign and strength, which do not depend on the lag.

    Args:
        moving: name, unit cause (N,) and unit effects (N, 2 * max_lag + 1), one column a lag, of each control.
    """
    by_control = np.stack([cause @ effects for _, cause, effects in moving])
    best = int(np.square(by_control).sum(0).argmax())
    strengths = by_control[:, best] / np.linalg.norm(by_control[:, best])
    products = sum(weight * cause[:, None] * effects for weight, (_, cause, effects) in zip(strengths, moving))
    lags = range(-max_lag, max_lag + 1)
    margins = _standard_errors(products[:, [best]] - products)
    margins[best] = np.inf
    rival = int(margins.argmin())
    return Alignment(
        moving[int(np.abs(strengths).argmax())][0],
        dict(zip(lags, products.sum(0).tolist(), strict=True)),
        float(_standard_errors(products[:, [best]])[0]),
        float(margins[rival]),
        lags[rival],
    )


def _standard_errors(terms: np.ndarray) -> np.ndarray:
    """Sums of independent terms (N, L) of mean 0, in their standard errors, (L,)."""
    return terms.sum(0) / np.sqrt(np.square(terms).sum(0) + 1e-12)


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


def _max_lag(directions: list[np.ndarray]) -> int:
    """How far to search, in frames: twice as far as directions are usually held."""
    holds = np.concatenate([np.zeros(1), *(np.diff(np.flatnonzero(np.diff(each))) for each in directions)])
    return int(np.clip(2 * np.percentile(holds, USUAL_HOLD_PERCENTILE), MIN_LAGS, MAX_LAGS))


def _prewhitened(series: list[np.ndarray]) -> list[np.ndarray]:
    """What is new at each moment: series minus what the moment before predicts, of unit length all together."""
    if not series:
        return series
    mean = np.concatenate(series).mean()
    series = [each - mean for each in series]
    power = sum(np.square(each[:-1]).sum() for each in series)
    persistence = sum((each[1:] * each[:-1]).sum() for each in series) / power if power else 0.0
    new = [each - persistence * np.append(0.0, each[:-1]) for each in series]
    length = np.linalg.norm(np.concatenate(new))
    return [each / length for each in new] if length > 1e-6 else [0 * each for each in new]


def _padded(series: list[np.ndarray], max_lag: int) -> Iterable[np.ndarray]:
    """Series with `max_lag` zeros before each, so that none meets another's."""
    return (np.pad(each, (max_lag, 0)) for each in series)


def _windows(series: list[np.ndarray], max_lag: int) -> np.ndarray:
    """(N, 2 * max_lag + 1): all series padded, at every lag."""
    padded = np.concatenate([np.zeros(max_lag), *_padded(series, max_lag), np.zeros(2 * max_lag)])
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * max_lag + 1)
