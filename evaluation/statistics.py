"""Figures with how sure they are: every one a dict of value, 95 % interval and n, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles


def estimate(
    sums: np.ndarray, counts: np.ndarray | None = None, transform: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, Any] | None:
    """The mean over independent units (clips, states, dreams), with a bootstrap interval (Efron, 1979) over them.

    Args:
        sums: (S,) what each unit adds up to; NaN where it was not measured.
        counts: (S,) over how many things; None: one each. The figure is sum(sums) / sum(counts).
        transform: of the mean into the figure, PSNR say; monotonic.

    Returns:
        `value`, `low` and `high` (None where not finite: JSON has no infinity), and `n` units; None without a unit.
    """
    sums = np.asarray(sums, np.float64)
    counts = np.ones_like(sums) if counts is None else np.asarray(counts, np.float64)
    measured = np.isfinite(sums) & (counts > 0)
    sums, counts = sums[measured], counts[measured]
    n = len(sums)
    if n == 0:
        return None
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)  # (R, S) how often each is drawn
    means = np.concatenate(([sums.sum() / counts.sum()], (drawn @ sums) / (drawn @ counts)))
    figures = transform(means) if transform else means
    low, high = np.percentile(figures[1:], INTERVAL, method="nearest")  # no arithmetic: it may be infinite
    value, low, high = (float(x) if np.isfinite(x) else None for x in (figures[0], low, high))
    return {"value": value, "low": low, "high": high, "n": n}
