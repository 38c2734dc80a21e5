"""What a dreamt frame costs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from evaluation.rollouts import SamplerSettings
from model.dit import WorldModel

WARM_UP_FRAMES = 3


def pace(settings: dict[str, Any]) -> str:
    """What, among the settings of a dream, the time of a frame follows from; its name in a report."""
    return f"{settings['num_steps']} steps, guidance {settings['guidance']:g}"


def ms_per_frame(model: WorldModel, denoising: SamplerSettings, num_frames: int) -> float:
    """The median over so many frames of one dream whose window is full.

    Args:
        model: as from `for_dreaming`.
    """
    config = model.config
    sampler = denoising.sampler(model)
    sampler.reset(torch.zeros(1, max(1, config.window_frames - 1), *config.frame_shape))
    action, times = torch.zeros(1, config.num_actions), []
    for _ in range(WARM_UP_FRAMES + num_frames):
        begun = time.perf_counter()
        sampler.step(action).cpu()
        times.append(1000 * (time.perf_counter() - begun))
    return float(np.median(times[WARM_UP_FRAMES:]))
