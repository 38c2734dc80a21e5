"""What a dreamt frame costs."""

from __future__ import annotations

import time

import numpy as np
import torch

from model.dit import WorldModel
from model.sampler import Sampler

WARM_UP_FRAMES = 3


def ms_per_frame(model: WorldModel, num_steps: int, num_frames: int) -> float:
    """The median over so many frames of one dream whose window is full.

    Args:
        model: as from `for_dreaming`.
    """
    config = model.config
    sampler = Sampler(model, num_steps)
    sampler.reset(torch.zeros(1, max(1, config.window_frames - 1), *config.frame_shape))
    action, times = torch.zeros(1, config.num_actions), []
    for _ in range(WARM_UP_FRAMES + num_frames):
        begun = time.perf_counter()
        sampler.step(action).cpu()
        times.append(1000 * (time.perf_counter() - begun))
    return float(np.median(times[WARM_UP_FRAMES:]))


def gflop_per_frame(model: WorldModel, num_steps: int) -> float:
    """Arithmetic of a frame: every step, and once more for the cache."""
    return (num_steps + 1) * model.config.run_flops / 1e9
