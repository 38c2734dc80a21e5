"""What edited clips are compared with: baselines that do without a model, and the steps from frame to frame.

Shapes: T frames, H x W x C pixels.
"""

import numpy as np

ORDINARY = (2.5, 97.5)  # percentiles of the steps of real play


def nearest_known(frames: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each unknown frame replaced with the nearest known one, the earlier of two: (..., T, H, W, C)."""
    at = np.flatnonzero(known)
    distance = np.abs(np.arange(len(known))[:, None] - at)
    return frames[..., at[distance.argmin(axis=1)], :, :, :]


def cross_fade(frames: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Each unknown frame replaced with a blend of the known ones before and after it: uint8 (..., T, H, W, C)."""
    at, times = np.flatnonzero(known), np.arange(len(known))
    after = np.searchsorted(at, times).clip(max=len(at) - 1)
    before = (np.searchsorted(at, times, side="right") - 1).clip(min=0)
    span = np.maximum(1, at[after] - at[before])
    weight = ((times - at[before]) / span).clip(0, 1)[:, None, None, None]
    blend = (1 - weight) * frames[..., at[before], :, :, :] + weight * frames[..., at[after], :, :, :]
    return blend.round().astype(np.uint8)


def step_sizes(frames: np.ndarray) -> np.ndarray:
    """How much each frame differs from the one before: root mean square in grey levels, float64 (..., T - 1)."""
    difference = np.diff(frames.astype(np.float32), axis=-4)
    return np.sqrt(np.square(difference).mean(axis=(-3, -2, -1), dtype=np.float64))


def seam_steps(frames: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`step_sizes` into, between and out of unknown frames: (..., steps). A loop's first frame must come again."""
    return step_sizes(frames)[..., ~(known[1:] & known[:-1])]


def ordinary_range(recordings: list[np.ndarray]) -> tuple[float, float]:
    """The range of 95 % of the steps from frame to frame of real play, each uint8 (T, H, W, C)."""
    low, high = np.percentile(np.concatenate([step_sizes(frames) for frames in recordings]), ORDINARY)
    return float(low), float(high)
