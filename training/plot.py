"""A picture of metrics.jsonl, for whoever has no account anywhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from data.whole import whole_file
from training.evaluate import NOISE_BINS
from training.metrics import METRICS_FILE, read_metrics

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
    with whole_file(run_folder / PICTURE) as temporary:
        figure.savefig(temporary, dpi=80, format="png")
