"""Time and FLOPs per generated frame."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from dreamrun.evaluation.inputs import EvaluationInputs
from dreamrun.evaluation.rollouts import SamplerSettings
from dreamrun.model.config import ModelConfig
from dreamrun.model.dit import WorldModel

WARM_UP_FRAMES = 3


def cost_section(inputs: EvaluationInputs) -> dict[str, float]:
    """GFLOPs per frame with the evaluated settings."""
    return {"gflop_per_frame": gflop_per_frame(inputs.model.config, inputs.settings)}


def frame_ms_section(inputs: EvaluationInputs) -> dict[str, float]:
    """Milliseconds per frame for each speed key among the swept settings."""
    by_key = {speed_key(asdict(settings)): settings for settings in inputs.sweep_settings}
    num_frames = inputs.sizes.timed_frames
    return {key: ms_per_frame(inputs.inference_model, by_key[key], num_frames) for key in by_key}


def speed_key(settings: dict[str, Any]) -> str:
    """Key of a frame time in a report. It names only the sampler settings that change the speed."""
    return f"{settings['num_steps']} steps, guidance {settings['guidance']:g}"


def gflop_per_frame(config: ModelConfig, settings: SamplerSettings) -> float:
    """GFLOPs of one generated frame, with the KV cache."""
    return config.flops_per_frame(settings.num_steps, settings.guidance) / 1e9


def ms_per_frame(model: WorldModel, settings: SamplerSettings, num_frames: int) -> float:
    """Median milliseconds per frame, over `num_frames` frames of one rollout whose window is full.

    Args:
        model: from `prepare_for_inference`.
    """
    config = model.config
    sampler = settings.make_sampler(model)
    sampler.reset(torch.zeros(1, max(1, config.window_frames - 1), *config.frame_shape))
    action, times = torch.zeros(1, config.num_actions), []
    for _ in range(WARM_UP_FRAMES + num_frames):
        start = time.perf_counter()
        sampler.step(action).cpu()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[WARM_UP_FRAMES:]))
