"""Drift: how long rollouts change over time in sharpness, colour, motion and distance from real frames.

Shapes: N frames or windows, S rollouts, T frames, W windows, H x W pixels, C channels, F features.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from einops import rearrange, reduce

from dreamrun.data.plots import Line, line_plot
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.section import Block, Picture, Section, Table, Text, format_estimate, format_percent
from dreamrun.evaluation.statistics import estimate

WINDOW_SECS = 2.0  # statistics are averaged over windows of this length
GRID_SIZE = 8  # rows and columns of the cells over which features are averaged
RANGE_PERCENTILES = (1.0, 99.0)  # of the statistics of real windows
RANGE_FACTOR = 1.25  # collapsed: below low / RANGE_FACTOR (a fifth below), or above high * RANGE_FACTOR
NUM_REFERENCE_FRAMES = 4000
STATISTICS = ("sharpness", "brightness", "contrast", "motion", "distance")
COLLAPSE_KINDS = ("frozen", "flat", "blown out")
COLLAPSE_DEFINITION = (
    "A rollout has collapsed if its last two seconds are frozen, flat or blown out. The thresholds lie beyond the "
    "range of 98 % of real windows: a fifth below its lower limit, a quarter above its upper limit. Frozen: it changes "
    "less from frame to frame. Flat: it is less sharp (sharpness is the mean gradient of the brightness). Blown out: "
    "it is sharper, or farther from the nearest real frame."
)


def measure(context: EvaluationContext) -> dict[str, Any]:
    """`drift` of the long rollouts, measured against real play."""
    real = np.concatenate([record.frames for record in context.train_records])
    chosen = np.sort(np.random.default_rng(context.config.seed).permutation(len(real))[:NUM_REFERENCE_FRAMES])
    reference = DriftReference(real[chosen], (r.frames for r in context.held_out_records), context.metadata.fps)
    num_frames = context.sizes["drift_frames"]
    if num_frames < reference.window:
        raise ValueError(f"long rollouts of {num_frames} frames are shorter than a window of {reference.window}")
    windows = [reference.statistics(frames)[1] for batch in context.long_rollouts() for frames in batch]
    return drift(np.stack(windows), reference)


def features(frames: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) -> float32 (N, F): mean colour and mean gradient of the brightness of each grid cell."""
    floats = frames.astype(np.float32)
    return np.concatenate((_cell_means(floats), _cell_means(_gradient(floats)[..., None])), axis=1)


def _gradient(frames: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> (N, H, W): magnitude of the gradient of the brightness."""
    grey = frames.mean(-1)
    return np.hypot(np.diff(grey, axis=1, append=grey[:, -1:]), np.diff(grey, axis=2, append=grey[:, :, -1:]))


def _cell_means(values: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> (N, GRID_SIZE * GRID_SIZE * C); cell sizes may differ by a pixel."""
    for axis in (1, 2):
        size = values.shape[axis]
        edges = np.linspace(0, size, min(GRID_SIZE, size) + 1).astype(int)
        cell_sizes = np.diff(edges).reshape([-1 if a == axis else 1 for a in range(4)])
        values = np.add.reduceat(values, edges[:-1], axis=axis) / cell_sizes
    return rearrange(values, "n h w c -> n (h w c)")


class DriftReference:
    """Real frames (N, H, W, C) to compare with, and the range of the statistics of held-out stretches (T, H, W, C)."""

    def __init__(self, frames: np.ndarray, held_out: Iterable[np.ndarray], fps: float):
        self.window = max(2, round(WINDOW_SECS * fps))  # frames
        reference_features = features(frames)
        self._scale = reference_features.std(0) + 1e-3 * reference_features.std() + 1e-6
        self._reference = reference_features / self._scale
        windows = [self.statistics(stretch)[1] for stretch in held_out if len(stretch) >= self.window]
        if not windows:
            raise ValueError(f"no held-out record is as long as a window of {self.window} frames")
        self.windows = np.concatenate(windows)  # (N, len(STATISTICS))
        self.low, self.high = np.percentile(self.windows, RANGE_PERCENTILES, axis=0)
        self.median = np.median(self.windows, axis=0)

    def statistics(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """STATISTICS of consecutive frames, uint8 (T, H, W, C): of each frame, (T, 5), and window means, (W, 5).

        Sharpness, brightness, contrast and motion are in levels of 0 to 255. Motion is the mean change from the frame
        before; the first frame has the motion of the second. Distance is the root mean square distance to the nearest
        reference frame, in standard deviations of each feature.
        """
        floats, scaled, reference = frames.astype(np.float32), features(frames) / self._scale, self._reference
        squared = np.square(scaled).sum(1)[:, None] - 2 * scaled @ reference.T + np.square(reference).sum(1)
        motion = np.abs(np.diff(floats, axis=0)).mean((1, 2, 3))
        pixels = rearrange(floats, "t h w c -> t (h w c)")
        columns = (
            _gradient(floats).mean((1, 2)),
            pixels.mean(1),
            pixels.std(1),
            np.concatenate((motion[:1], motion)),
            np.sqrt(np.maximum(squared.min(1), 0) / scaled.shape[1]),
        )
        by_frame = np.stack(columns, axis=1)
        num_windows = len(frames) // self.window
        return by_frame, reduce(by_frame[: num_windows * self.window], "(w t) s -> w s", "mean", t=self.window)

    def collapsed(self, windows: np.ndarray) -> np.ndarray:
        """Window statistics (..., 5) -> bool (..., 3), the COLLAPSE_KINDS as COLLAPSE_DEFINITION defines them."""
        is_below, is_above = windows <= self.low / RANGE_FACTOR, windows > self.high * RANGE_FACTOR
        sharpness, motion, distance = (STATISTICS.index(name) for name in ("sharpness", "motion", "distance"))
        columns = (is_below[..., motion], is_below[..., sharpness], is_above[..., [sharpness, distance]].any(-1))
        return np.stack(columns, axis=-1)


def drift(windows: np.ndarray, reference: DriftReference) -> dict[str, Any]:
    """Collapses of long rollouts, and window statistics (S, W, 5) of `DriftReference.statistics`, over time.

    Also of real play: the range of each statistic, and the share of windows that count as collapsed.
    """
    collapsed = reference.collapsed(windows)
    window_ids = range(windows.shape[1])
    statistics = {name: [estimate(windows[:, w, i]) for w in window_ids] for i, name in enumerate(STATISTICS)}
    return {
        "window_frames": reference.window,
        "definition": COLLAPSE_DEFINITION,
        "collapsed": estimate(collapsed[:, -1].any(-1)),
        "collapsed_how": {name: estimate(collapsed[:, -1, i]) for i, name in enumerate(COLLAPSE_KINDS)},
        "collapsed_by_window": [estimate(collapsed[:, w].any(-1)) for w in window_ids],
        "statistics": statistics,
        "real": {
            "windows": len(reference.windows),
            "collapsed": float(reference.collapsed(reference.windows).any(-1).mean()),
            **{
                name: dict(zip(STATISTICS, getattr(reference, name).tolist(), strict=True))
                for name in ("median", "low", "high")
            },
        },
    }


def blocks(report: dict[str, Any]) -> Iterator[Block]:
    section, pictures = report["drift"], report["pictures"]
    num_frames, n = report["settings"]["drift_frames"], section["collapsed"]["n"]
    yield Text(
        f"{n} rollouts of {num_frames} frames follow random actions: each action is as frequent as in real play and is "
        f"held for six frames on average. {section['definition']} By this rule, {section['real']['collapsed']:.1%} of "
        f"{section['real']['windows']} real windows count as collapsed. The distance is to the nearest of 4 000 real "
        "training frames, measured in the colours and edges of an 8 x 8 grid."
    )
    collapsed = {"collapsed": section["collapsed"], **section["collapsed_how"]}
    yield Table([*collapsed, "n rollouts"], [[*(format_percent(value) for value in collapsed.values()), str(n)]])
    ends = [(i + 1) * section["window_frames"] for i in range(len(section["collapsed_by_window"]))]
    shown, real = sorted({0, len(ends) // 4, len(ends) // 2, len(ends) - 1}), section["real"]
    rows = [
        [name, *(format_estimate(windows[i], 2) for i in shown), f"{real['low'][name]:.2f} to {real['high'][name]:.2f}"]
        for name, windows in section["statistics"].items()
    ]
    yield Table(["two seconds up to frame", *(str(ends[i]) for i in shown), "98 % of real play"], rows)
    for name in ("sharpness", "distance"):
        median = ("real play, median", real["median"][name])
        line = Line("rollouts", ends, section["statistics"][name])
        yield Picture(f"{name} over time", line_plot(name, "generated frame", [line], median))
    line = Line("rollouts", ends, section["collapsed_by_window"])
    plot = line_plot("share of collapsed rollouts", "generated frame", [line], top=1.0)
    yield Picture("Share of collapsed rollouts over time", plot)
    if "shown" in pictures:
        frames = ", ".join(map(str, pictures["drift_moments"]))
        yield Picture(f"Long rollouts, one per row, at frames {frames}", pictures["shown"]["long dreams"], wide=True)


def headlines(report: dict[str, Any]) -> Iterator[list[str]]:
    share, num_frames = report["drift"]["collapsed"], report["settings"]["drift_frames"]
    yield [f"Collapsed after {num_frames} frames", format_percent(share), f"{share['n']} rollouts"]


DRIFT = Section("drift", measure, "Drift", blocks, headlines)
