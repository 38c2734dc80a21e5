"""Bootstrap intervals."""

import numpy as np

from dreamrun.data.metrics import psnr_from_mse
from dreamrun.evaluation.statistics import estimate


def test_the_interval_covers_the_true_mean_as_often_as_it_should():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        figure = estimate(rng.normal(3.0, 2.0, 40))
        hits += figure["low"] <= 3.0 <= figure["high"]
        assert figure["low"] < figure["value"] < figure["high"] and figure["n"] == 40
    assert 0.88 < hits / 200 < 0.99


def test_estimates_without_units_without_error_and_of_ratios():
    assert estimate(np.array([np.nan, np.nan])) is None
    assert estimate(np.zeros(5), transform=psnr_from_mse) == {"value": None, "low": None, "high": None, "n": 5}
    assert estimate(np.array([1.0, np.nan, 5.0]))["value"] == 3.0
    ratio = estimate(np.array([1.0, 6.0, 0.0]), counts=np.array([2.0, 8.0, 0.0]))
    assert ratio["value"] == 0.7 and ratio["n"] == 2
