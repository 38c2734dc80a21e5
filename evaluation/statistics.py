"""Estimates with bootstrap confidence intervals, as dicts ready for JSON."""

from collections.abc import Callable
from typing import Any

import numpy as np

NUM_RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles


def estimate(
    sums: np.ndarray, counts: np.ndarray | None = None, transform: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, Any] | None:
    """The mean over independent units (clips, game states, rollouts) with its bootstrap interval (Efron, 1979).

    Args:
        sums: (S,) sum of the measured values of each unit; NaN if the unit was not measured.
        counts: (S,) number of values of each unit; None: one each. The estimate is sum(sums) / sum(counts).
        transform: monotonic function that turns the mean into the estimate, for example into a PSNR.

    Returns:
        A dict of `value`, `low`, `high` (None if not finite: JSON has no infinity) and `n`, the number of units.
        None if no unit was measured.
    """
    sums = np.asarray(sums, np.float64)
    counts = np.ones_like(sums) if counts is None else np.asarray(counts, np.float64)
    measured = np.isfinite(sums) & (counts > 0)
    sums, counts = sums[measured], counts[measured]
    n = len(sums)
    if n == 0:
        return None
    # (R, S): how often each unit is drawn in each resample.
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), NUM_RESAMPLES)
    means = np.concatenate(([sums.sum() / counts.sum()], (draws @ sums) / (draws @ counts)))
    estimates = transform(means) if transform else means
    # "nearest" does no arithmetic on the estimates, which may be infinite.
    low, high = np.percentile(estimates[1:], INTERVAL, method="nearest")
    value, low, high = (float(x) if np.isfinite(x) else None for x in (estimates[0], low, high))
    return {"value": value, "low": low, "high": high, "n": n}
