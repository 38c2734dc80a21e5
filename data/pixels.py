"""Conversion of frames between uint8 (..., H, W, C) and float32 (..., C, H, W) in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_float(frames: Tensor | np.ndarray) -> Tensor:
    """uint8 (..., H, W, C) in 0 to 255 -> float32 (..., C, H, W) in -1 to 1, on the same device."""
    frames = torch.as_tensor(frames)
    assert frames.dtype == torch.uint8, frames.dtype
    return frames.movedim(-1, -3).to(torch.float32).mul_(2.0 / 255.0).sub_(1.0)


def to_levels(frames: Tensor) -> Tensor:
    """float (..., C, H, W) in -1 to 1 -> float32 of the same shape, rounded to 0, 1, ... 255, on the same device."""
    return frames.float().add(1.0).mul(255.0 / 2.0).round().clamp(0, 255)


def to_uint8(frames: Tensor) -> np.ndarray:
    """float (..., C, H, W) in -1 to 1 -> uint8 (..., H, W, C), rounded and clipped, on the CPU."""
    return to_levels(frames).to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()
