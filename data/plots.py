"""Line plots: SVG for a report, PNG for a file.

Importing this module takes a second, because matplotlib does.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dreamrun.data.atomic import atomic_file

# Lines of the PSNR plot: key in the report of scripts/infer.py, and label.
PSNR_LINES = {
    "dream": "dream",
    "repeat_prompt": "repeat the prompt",
    "other_actions": "dream, another sample's actions",
}
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
    estimates: list[dict | None]  # value, low and high, as `evaluation.statistics.estimate` gives; None: a gap


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
            value, low, high = (column(line.estimates, key) for key in ("value", "low", "high"))
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


def column(estimates: list[dict | None], key: str) -> np.ndarray:
    """One number of each estimate, float64; NaN where there is none."""
    values = [None if estimate is None else estimate[key] for estimate in estimates]
    return np.array([np.nan if value is None else value for value in values], np.float64)


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
    save_png(figure, path, dpi=120)


def save_png(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure, atomically."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
