"""What becomes of a long dream? Sharpness, colour, motion and how far from real play its frames are, over time.

Shapes: N frames or windows, S dreams, T frames, W windows, H x W x C pixels, F features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from evaluation.statistics import estimate

WINDOW_SECS = 2.0  # statistics are means over windows of so long
GRID = 8  # rows and columns of the cells that features are means over
MARGIN = 1.25  # beyond real play's range by this factor: collapsed
RANGE = (1.0, 99.0)  # percentiles of real windows: real play's range
REFERENCE_FRAMES = 4000
STATISTICS = ("sharpness", "brightness", "contrast", "motion", "distance")
COLLAPSES = ("frozen", "flat", "blown out")
COLLAPSE_IN_WORDS = (
    "A dream has collapsed if its last two seconds are frozen, flat or blown out, by a quarter beyond the range that "
    "98 % of real windows keep to. Frozen: it changes less from frame to frame. Flat: it is less sharp (the mean "
    "gradient of brightness). Blown out: it is sharper, or further from the nearest real frame."
)


def features(frames: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) -> float32 (N, F): mean colour, and mean gradient of brightness, in a grid of cells."""
    floats = frames.astype(np.float32)
    return np.concatenate((_cells(floats), _cells(_gradient(floats)[..., None])), axis=1)


def _gradient(frames: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> (N, H, W) magnitude of the brightness's gradient."""
    grey = frames.mean(-1)
    return np.hypot(np.diff(grey, axis=1, append=grey[:, -1:]), np.diff(grey, axis=2, append=grey[:, :, -1:]))


def _cells(values: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> (N, GRID * GRID * C) means; cells differ by a pixel where sizes do not divide."""
    for axis in (1, 2):
        size = values.shape[axis]
        edges = np.linspace(0, size, min(GRID, size) + 1).astype(int)
        widths = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(4)])
        values = np.add.reduceat(values, edges[:-1], axis=axis) / widths
    return values.reshape(len(values), -1)


class RealPlay:
    """A bank of real frames, and what windows of held-out real play look like beside it.

    Args:
        bank: uint8 (N, H, W, C), real frames.
        held_out: stretches of other real play, uint8 (T, H, W, C) each.
        fps: frames a second.

    Raises:
        ValueError: no stretch is as long as a window.
    """

    def __init__(self, bank: np.ndarray, held_out: Iterable[np.ndarray], fps: float):
        self.window = max(2, round(WINDOW_SECS * fps))
        bank_features = features(bank)
        self._scale = bank_features.std(0) + 1e-3 * bank_features.std() + 1e-6
        self._bank = bank_features / self._scale
        windows = [self.statistics(frames)[1] for frames in held_out if len(frames) >= self.window]
        if not windows:
            raise ValueError(f"no real play is as long as a window, {self.window} frames")
        self.windows = np.concatenate(windows)  # (N, statistics)
        self.low, self.high = np.percentile(self.windows, RANGE, axis=0)
        self.median = np.median(self.windows, axis=0)

    def statistics(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of consecutive frames, uint8 (T, H, W, C): each frame's, (T, 5), and means over whole windows, (W, 5).

        In order: sharpness, brightness, contrast (all in levels of 255), motion (mean change from the frame before;
        of the first, to the next), distance to the nearest frame of the bank (root mean square, in each feature's
        standard deviations).
        """
        floats = frames.astype(np.float32)
        motion = np.abs(np.diff(floats, axis=0)).mean((1, 2, 3))
        flat = floats.reshape(len(floats), -1)
        columns = (
            _gradient(floats).mean((1, 2)),
            flat.mean(1),
            flat.std(1),
            np.concatenate((motion[:1], motion)),
            self._distance(frames),
        )
        by_frame = np.stack(columns, axis=1)
        whole = len(frames) // self.window * self.window
        return by_frame, by_frame[:whole].reshape(-1, self.window, len(STATISTICS)).mean(1)

    def _distance(self, frames: np.ndarray) -> np.ndarray:
        own = features(frames) / self._scale
        squared = np.square(own).sum(1)[:, None] - 2 * own @ self._bank.T + np.square(self._bank).sum(1)
        return np.sqrt(np.maximum(squared.min(1), 0) / own.shape[1])

    def collapsed(self, windows: np.ndarray) -> np.ndarray:
        """Windows' statistics (..., 5) -> bool (..., 3): frozen, flat, blown out, as `COLLAPSE_IN_WORDS` says."""
        is_below, is_above = windows <= self.low / MARGIN, windows > self.high * MARGIN
        sharpness, motion, distance = (STATISTICS.index(name) for name in ("sharpness", "motion", "distance"))
        columns = (is_below[..., motion], is_below[..., sharpness], is_above[..., [sharpness, distance]].any(-1))
        return np.stack(columns, axis=-1)


def drift(windows: np.ndarray, real: RealPlay) -> dict[str, Any]:
    """What becomes of the dreams over time.

    Args:
        windows: (S, W, 5), as `RealPlay.statistics` makes of each dream.

    Returns:
        By window: the mean of each statistic, and the share collapsed; the share of dreams that have collapsed by their
        end, and how; and of the real windows, real play's range of each statistic and the share that would count as
        collapsed.
    """
    fallen = real.collapsed(windows)
    times = range(windows.shape[1])
    last = {name: estimate(fallen[:, -1, i]) for i, name in enumerate(COLLAPSES)}
    statistics = {name: [estimate(windows[:, time, i]) for time in times] for i, name in enumerate(STATISTICS)}
    return {
        "window_frames": real.window,
        "definition": COLLAPSE_IN_WORDS,
        "collapsed": estimate(fallen[:, -1].any(-1)),
        "collapsed_how": last,
        "collapsed_by_window": [estimate(fallen[:, time].any(-1)) for time in times],
        "statistics": statistics,
        "real": {
            "windows": len(real.windows),
            "collapsed": float(real.collapsed(real.windows).any(-1).mean()),
            "median": dict(zip(STATISTICS, real.median.tolist(), strict=True)),
            "low": dict(zip(STATISTICS, real.low.tolist(), strict=True)),
            "high": dict(zip(STATISTICS, real.high.tolist(), strict=True)),
        },
    }
