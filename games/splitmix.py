"""SplitMix64 (Steele, Lea and Flood, 2014): counter-based random numbers and hashes on arrays of uint64."""

import numpy as np


def splitmix64_hash(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 (...) -> uint64 (...), well mixed in all bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def splitmix64_next(state: np.ndarray) -> np.ndarray:
    """The next random number of each stream, uint64 (...). It is also the stream's next state."""
    return splitmix64_hash(state + np.uint64(0x9E3779B97F4A7C15))
