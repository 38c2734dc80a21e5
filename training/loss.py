"""The one loss, for training and validation.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig
from model.diffusion import add_noise, frame_alpha_bar, v_from_x0_eps, x0_from_prediction

# An x0 network's loss is weighed by 1 / (1 - alpha_bar), held down below this (that is below u = 0.03).
MIN_NOISE_POWER = 0.01


@dataclass(frozen=True)
class Noise:
    """What is random in the loss, drawn apart so that two losses can share it."""

    levels: Tensor  # (B, T) in [0, 1], independent for each frame (diffusion forcing, arXiv 2407.01392)
    eps: Tensor  # (B, T, C, H, W) standard normal


def draw_noise(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Noise:
    """Noise for frames of `shape` (B, T, C, H, W); uniform levels. The generator is on `device`."""
    levels = torch.rand(shape[:2], generator=generator, device=device)
    return Noise(levels, torch.randn(shape, generator=generator, device=device))


def drop_actions(actions: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Hide all actions of a share of the clips, so that the network also learns to go on without any."""
    kept = torch.rand(actions.shape[0], generator=generator, device=actions.device) >= share
    return actions * kept[:, None, None]


def diffusion_loss(model, config: ModelConfig, x0: Tensor, actions: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """The v loss, `|v_hat - v|^2`, whether the network puts out v or x0.

    For x0 networks that is `|x0_hat - x0|^2 / (1 - alpha_bar)` (arXiv 2202.00512, section 4).

    Args:
        model: a `WorldModel`, compiled or not.
        x0: (B, T, C, H, W) clean frames in [-1, 1].
        actions: (B, T, A).

    Returns:
        Loss of each frame (B, T), a mean over its numbers; and the x0 that the network saw, shaped as x0.
    """
    ab = frame_alpha_bar(noise.levels)
    x_u = add_noise(x0, noise.eps, ab)
    prediction = model(x_u, noise.levels, actions)
    if config.prediction == "v":
        squared = (prediction - v_from_x0_eps(x0, noise.eps, ab)).square()
    else:
        squared = (prediction - x0).square() / (1 - ab).clamp(min=MIN_NOISE_POWER)
    return squared.mean(dim=(2, 3, 4)), x0_from_prediction(prediction, x_u, ab, config.prediction)
