"""Artificial rollouts whose metrics are known in advance."""

import numpy as np

PROMPT = 4  # prompt frames of all clips and counterfactuals


def noise(shape, seed=0):
    """Frames of uniform random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
