"""What the page shows of a training run that it follows: curves from `metrics.jsonl`, and the newest action strip."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from dreamrun.data.metrics_log import ACTION_STRIPS, METRICS_FILE, read_metrics

MAX_POINTS = 400  # of a curve
CURVES = {
    "log10 of the loss": ("train/loss", "val/loss"),
    "PSNR of rollouts, dB": ("rollout/psnr_1", "rollout/psnr_8"),
}


def curves(run_folder: Path) -> list[pd.DataFrame]:
    """For each of CURVES a table with the columns step, value and metric; empty before the first metrics."""
    path = run_folder / METRICS_FILE
    lines = read_metrics(path) if path.is_file() else []
    return [_table(lines, names, is_log="log10" in title) for title, names in CURVES.items()]


def _table(lines: list[dict], names: tuple[str, ...], is_log: bool) -> pd.DataFrame:
    rows = []
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        for step, value in points[:: max(1, math.ceil(len(points) / MAX_POINTS))]:
            if value > 0 or not is_log:
                rows.append((step, math.log10(value) if is_log else value, name))
    return pd.DataFrame(rows, columns=["step", "value", "metric"]).astype({"step": float, "value": float})


def newest_strip(run_folder: Path) -> Path | None:
    """The newest action strip of a run, an mp4; None before the first one. A link could lead to any file."""
    strips = (path for path in run_folder.glob(ACTION_STRIPS) if path.is_file() and not path.is_symlink())
    return max(strips, default=None)
