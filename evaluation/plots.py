"""Line plots as inline SVG that takes the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

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
