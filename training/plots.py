"""A run's `metrics.png`.

Importing this module takes a second, because matplotlib does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from matplotlib.figure import Figure

from dreamrun.data.metrics_log import METRICS_FILE, read_metrics
from dreamrun.data.plots import save_png
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
    save_png(figure, run_folder / METRICS_PLOT_FILE, dpi=80)
