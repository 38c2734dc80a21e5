"""All figures: a run's `metrics.png`, PSNR by frame, and the SVG line plots of the evaluation report.

Importing this module takes a second, because matplotlib does.
"""

from __future__ import annotations

import io
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dreamrun.data.atomic import atomic_file
from dreamrun.training.logging import METRICS_FILE, read_metrics
from dreamrun.training.validation import NOISE_BINS

METRICS_PLOT_FILE = "metrics.png"
MIN_INTERVAL_SECS = 30.0  # between two drawings, each of which takes up to a second
# Title of each panel, and the metrics in it.
PANELS = {
    "loss": ("train/loss", "val/loss", "epoch/val_loss"),
    "val loss by noise level": tuple(f"val/loss_noise_{n / NOISE_BINS:.3f}" for n in range(NOISE_BINS)),
    "PSNR (dB)": ("epoch/psnr", *(f"rollout/psnr_{n}" for n in (1, 4, 8, 16))),
    "val SSIM, and loss under wrong actions / val loss": ("epoch/ssim", "val/action_ratio"),
    "gradient norm, learning rate": ("train/grad_norm", "train/lr"),
    "clips/s, share of time waiting for data": ("train/clips_per_sec", "train/data_wait"),
}
LOG_SCALE_PANELS = (
    "loss",
    "val loss by noise level",
    "gradient norm, learning rate",
    "clips/s, share of time waiting for data",
)
# Lines of the PSNR plot: key in the report of scripts/infer.py, and label.
PSNR_LINES = {
    "dream": "dream",
    "repeat_prompt": "repeat the prompt",
    "other_actions": "dream, another sample's actions",
}


class MetricsPlot:
    """`RUN/metrics.png`, drawn again from time to time."""

    def __init__(self, run_folder: Path):
        self._folder, self._last_time = run_folder, time.monotonic()

    def draw(self, last: bool = False) -> None:
        """Draw `metrics.jsonl`, if MIN_INTERVAL_SECS have passed or it is the `last` time. An error only warns."""
        if not last and time.monotonic() - self._last_time < MIN_INTERVAL_SECS:
            return
        if not (self._folder / METRICS_FILE).is_file():  # nothing was logged yet
            return
        try:
            draw_metrics(self._folder)
        except Exception as error:  # training matters more than its plot
            print(f"warning: {self._folder / METRICS_PLOT_FILE} could not be drawn: {error}", file=sys.stderr)
        self._last_time = time.monotonic()


def draw_metrics(run_folder: Path) -> None:
    """Draw the `metrics.jsonl` of a run into its `metrics.png`, atomically."""
    lines = read_metrics(run_folder / METRICS_FILE)
    figure = Figure(figsize=(15, 7))  # a layout that fits the labels would take as long as the drawing
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.07, top=0.95, wspace=0.22, hspace=0.28)
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                marker = "." if len(points) <= 50 else None
                axes.plot(*zip(*points, strict=True), label=name, marker=marker, linewidth=1)
        axes.set(title=title, xlabel="step")
        if axes.lines:
            axes.legend(fontsize=8)
            if title in LOG_SCALE_PANELS:
                axes.set_yscale("log", nonpositive="mask")
        axes.grid(alpha=0.3)
    _save_png(figure, run_folder / METRICS_PLOT_FILE, dpi=80)


def plot_psnr(path: Path, report: dict[str, Any]) -> None:
    """Draw PSNR by frame as a PNG, one line for the rollout and one for each baseline.

    Args:
        report: of scripts/infer.py: `num_samples`, and for each key of PSNR_LINES in it a list `psnr` in dB.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in PSNR_LINES.items():
        if name in report:
            values = [np.nan if value is None else value for value in report[name]["psnr"]]
            axes.plot(np.arange(1, len(values) + 1), values, label=label)
    axes.set(xlabel="generated frame", ylabel="PSNR (dB)", title=f"{report['num_samples']} held-out episodes")
    axes.grid(alpha=0.3)
    axes.legend()
    _save_png(figure, path, dpi=120)


def plot_scaling(path: Path, sizes: dict[str, list[dict[str, Any]]]) -> None:
    """Draw quality against the compute of training as a PNG: a panel for each metric, a line for each size.

    Args:
        sizes: name -> points with `flop` and, for each metric, an estimate with value, low and high.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    metrics = [name for name in next(iter(sizes.values()))[0] if name != "flop"]
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for (name, points), color in zip(sizes.items(), LINE_COLORS, strict=False):
            flop, estimates = [point["flop"] for point in points], [point[metric] for point in points]
            value, low, high = (_column(estimates, key) for key in ("value", "low", "high"))
            axes.plot(flop, value, color=color, label=name, marker="o", ms=4)
            axes.fill_between(flop, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(xlabel="FLOP of training", title=metric, xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    _save_png(figure, path, dpi=120)


def _save_png(figure: Figure, path: Path, dpi: int) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")


TEXT_COLOR = "#010203"  # a placeholder, which the SVG replaces with `currentColor`, the text colour of the page
LINE_COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6")  # legible on white and on black
SVG_STYLE: dict[Any, Any] = {
    "text.color": TEXT_COLOR,
    "axes.labelcolor": TEXT_COLOR,
    "axes.edgecolor": TEXT_COLOR,
    "xtick.color": TEXT_COLOR,
    "ytick.color": TEXT_COLOR,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dreamrun",  # the same plot gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
}


@dataclass(frozen=True)
class Line:
    """A line with its 95 % interval."""

    label: str
    x: list[float]
    estimates: list[dict | None]  # from `evaluation.statistics.estimate`: value, low and high; None: a gap in the line


def line_plot(
    title: str, x_label: str, lines: list[Line], level: tuple[str, float] | None = None, top: float | None = None
) -> str:
    """An <svg> element with lines and their 95 % intervals.

    Args:
        level: label and height of a horizontal line.
        top: upper end of a y axis that starts at 0; None: the y axis fits the lines.
    """
    with matplotlib.rc_context(SVG_STYLE):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        for line, color in zip(lines, LINE_COLORS, strict=False):
            value, low, high = (_column(line.estimates, key) for key in ("value", "low", "high"))
            axes.plot(line.x, value, color=color, label=line.label, marker="o" if len(value) < 12 else None, ms=4)
            axes.fill_between(line.x, low, high, color=color, alpha=0.2, linewidth=0)
        if level:
            axes.axhline(level[1], color=TEXT_COLOR, linestyle=":", linewidth=1, label=level[0])
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
    svg = svg.replace(TEXT_COLOR, "currentColor")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg, count=1)


def _column(estimates: list[dict | None], key: str) -> np.ndarray:
    """One number of each estimate, float64; NaN where there is none."""
    values = [None if estimate is None else estimate[key] for estimate in estimates]
    return np.array([np.nan if value is None else value for value in values], np.float64)
