"""A picture of metrics.jsonl, for whoever has no account anywhere."""

from __future__ import annotations

import io
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from data.atomic import atomic_file
from training.logging import METRICS_FILE, read_metrics
from training.validation import NOISE_BINS

PICTURE = "metrics.png"
LEAST_SECS = 30.0  # between two drawings, each of which takes up to a second
# Title and unit of each part, and the metrics it shows.
PANELS = {
    "loss": ("train/loss", "val/loss", "epoch/val_loss"),
    "val loss by noise level": tuple(f"val/loss_noise_{n / NOISE_BINS:.3f}" for n in range(NOISE_BINS)),
    "PSNR (dB)": ("epoch/psnr", *(f"rollout/psnr_{n}" for n in (1, 4, 8, 16))),
    "val SSIM, and loss under wrong actions / val loss": ("epoch/ssim", "val/action_ratio"),
    "gradient norm, learning rate": ("train/grad_norm", "train/lr"),
    "clips/s, share of waiting for data": ("train/clips_per_sec", "train/data_wait"),
}
LOGARITHMIC = ("loss", "val loss by noise level", "gradient norm, learning rate", "clips/s, share of waiting for data")


class MetricsPlot:
    """`RUN/metrics.png`, drawn anew now and then."""

    def __init__(self, run_folder: Path):
        self._folder, self._drawn = run_folder, time.monotonic()

    def draw(self, last: bool = False) -> None:
        """Draw what metrics.jsonl holds, if it is time, or the `last` time. What goes wrong costs a warning."""
        if not last and time.monotonic() - self._drawn < LEAST_SECS:
            return
        try:
            draw_metrics(self._folder)
        except Exception as error:  # whatever it is, training matters more
            print(f"warning: {self._folder / PICTURE} could not be drawn: {error}", file=sys.stderr)
        self._drawn = time.monotonic()


def draw_metrics(run_folder: Path) -> None:
    """Draw a run's metrics into its `metrics.png`, which is there whole or as it was before."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as it takes a while to import
    from matplotlib.figure import Figure

    lines = read_metrics(run_folder / METRICS_FILE)
    figure = Figure(figsize=(15, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                few = len(points) <= 50
                axes.plot(*zip(*points, strict=True), label=name, marker="." if few else None, linewidth=1)
        axes.set(title=title, xlabel="step")
        if axes.lines:
            axes.legend(fontsize=8)
            if title in LOGARITHMIC:
                axes.set_yscale("log", nonpositive="mask")
        axes.grid(alpha=0.3)
    with atomic_file(run_folder / PICTURE) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


INK = "#010203"  # stands for the page's own colour until the picture is written
COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6")  # legible on white and on black
_STYLE = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dreamrun",  # the same plot, the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
}


@dataclass(frozen=True)
class Line:
    """Estimates (as `statistics.estimate` makes them, None where there is none) over x."""

    label: str
    x: list[float]
    estimates: list[dict | None]


def line_plot(
    title: str, x_label: str, lines: list[Line], level: tuple[str, float] | None = None, top: float | None = None
) -> str:
    """An <svg>, each line in its 95 % interval.

    Args:
        level: a horizontal line with a name.
        top: the axis runs from 0 to here; None: as the lines do.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        for line, colour in zip(lines, COLOURS, strict=False):
            columns = [[_number(e, part) for e in line.estimates] for part in ("value", "low", "high")]
            value, low, high = np.array(columns, float)
            axes.plot(line.x, value, color=colour, label=line.label, marker="o" if len(value) < 12 else None, ms=4)
            axes.fill_between(line.x, low, high, color=colour, alpha=0.2, linewidth=0)
        if level:
            axes.axhline(level[1], color=INK, linestyle=":", linewidth=1, label=level[0])
        if top is not None:
            axes.set_ylim(-0.02 * top, 1.02 * top)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(x_label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg, count=1)


def _number(estimate: dict | None, part: str) -> float:
    return np.nan if estimate is None or estimate[part] is None else estimate[part]
