"""TODO."""

from __future__ import annotations

import numpy as np


def splitmix64_hash(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al., 2014): uint64 -> well mixed uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def splitmix64_next(stream: np.ndarray) -> np.ndarray:
    """The next number of each stream, which is also its next state."""
    return splitmix64_hash(stream + np.uint64(0x9E3779B97F4A7C15))
