"""The one loss, for training and validation.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig
from model.diffusion import add_noise, frame_alpha_bar, v_from_x0_eps, x0_from_prediction

# An x0 network's loss is weighed by 1 / (1 - alpha_bar), held down below this (that is below u = 0.03).
MIN_NOISE_POWER = 0.01
CLEAN_LEVEL = 0.1  # noise levels of nearly clean frames lie below it

NoiseLevels = Literal["uniform", "logit-normal", "half-clean"]  # see `spread`


@dataclass(frozen=True)
class Noise:
    """What is random in the loss, drawn apart so that two losses can share it."""

    levels: Tensor  # (B, T) in [0, 1], independent for each frame (diffusion forcing, arXiv 2407.01392)
    eps: Tensor  # (B, T, C, H, W) standard normal
    coins: Tensor  # (B,) uniform in [0, 1), for `drop_actions`
    weights: Tensor  # (B, T) of each frame in the training loss; 1 on average
    uniform: Tensor  # (B, T) in [0, 1), what levels and weights were made from


def draw_noise(shape: torch.Size, seeds: np.ndarray, device: torch.device, kind: NoiseLevels = "uniform") -> Noise:
    """Noise for frames of `shape` (B, T, C, H, W), each clip's from its own seed, uint64 (B,), alone.

    So it is the same whatever batch, micro-batch or rank the clip is in. One generator, seeded again for each clip,
    is faster on a CPU than one draw for all (46 ms to 75 for 32 clips of 32 frames of 64x64, as a clip fits the cache);
    on a GPU it is two launches a clip, and nothing waits for the device.
    """
    batch, num_frames = shape[:2]
    generator = torch.Generator(device)
    uniform = torch.empty(batch, num_frames + 1, device=device)
    eps = torch.empty(shape, device=device)
    for clip, seed in enumerate(seeds.tolist()):
        generator.manual_seed(seed)
        uniform[clip].uniform_(generator=generator)
        eps[clip].normal_(generator=generator)
    levels, weights = spread(uniform[:, 1:], kind)
    return Noise(levels=levels, eps=eps, coins=uniform[:, 0], weights=weights, uniform=uniform[:, 1:])


def spread(uniform: Tensor, kind: NoiseLevels) -> tuple[Tensor, Tensor]:
    """Uniform numbers in [0, 1) -> noise levels, and the weight of each frame in the loss, of the same shape.

    "uniform": as they are. "logit-normal": the middle levels more often (arXiv 2403.03206, section 3.1).
    "half-clean": every other frame, by chance, is nearly clean and only looked back at, as all are in a dream, and the
    rest are uniform. When all levels are uniform, a frame hardly ever sees two clean ones before it.
    """
    if kind == "uniform":
        return uniform, torch.ones_like(uniform)
    if kind == "logit-normal":
        return torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).sigmoid(), torch.ones_like(uniform)
    clean = uniform < 0.5
    return torch.where(clean, 2 * CLEAN_LEVEL * uniform, 2 * uniform - 1), 2.0 * ~clean


def drop_actions(actions: Tensor, share: float, coins: Tensor) -> Tensor:
    """Hide all actions of a share of the clips, so that the network also learns to go on without any."""
    return actions * (coins >= share)[:, None, None]


def diffusion_loss(
    model, config: ModelConfig, x0: Tensor, actions: Tensor, noise: Noise, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The v loss, `|v_hat - v|^2`, whether the network puts out v or x0.

    For x0 networks that is `|x0_hat - x0|^2 / (1 - alpha_bar)` (arXiv 2202.00512, section 4).

    Args:
        model: a `WorldModel`, compiled or not.
        x0: (B, T, C, H, W) clean frames in [-1, 1].
        actions: (B, T, A).
        seen: (B, T, C, H, W) what is noised and shown in place of x0; None: x0 itself.

    Returns:
        Loss of each frame (B, T), a mean over its numbers; and the x0 that the network saw, shaped as x0.
    """
    ab = frame_alpha_bar(noise.levels)
    x_u = add_noise(x0 if seen is None else seen, noise.eps, ab)
    prediction = model(x_u, noise.levels, actions)
    if config.prediction == "v" and seen is None:
        squared = (prediction - v_from_x0_eps(x0, noise.eps, ab)).square()
    else:
        x0_hat = x0_from_prediction(prediction, x_u, ab, config.prediction)
        squared = (x0_hat - x0).square() / (1 - ab).clamp(min=MIN_NOISE_POWER)
    return squared.mean(dim=(2, 3, 4)), x0_from_prediction(prediction, x_u, ab, config.prediction)


@torch.no_grad()
def with_own_frames(
    model, config: ModelConfig, x0: Tensor, actions: Tensor, noise: Noise, kind: NoiseLevels, share: float
) -> Tensor:
    """x0 with the frames of a share of the clips as the network itself makes them, for it to learn from its errors.

    A dream looks back at its own frames, training at real ones: that is where drift comes from. Each frame is predicted
    in one run, from noise levels half a turn away, so that what is clean in the loss is made from noise here; and is
    rounded to 8 bits, as dreams are when they are shown.

    Args:
        x0, actions, noise: as for `diffusion_loss`, which takes the result as `seen`.
        kind: how `noise` was drawn.
        share: of the clips; those whose coins are highest, as those with the lowest have their actions hidden.
    """
    own = noise.coins >= 1 - share
    if not own.any():
        return x0
    levels, _ = spread((noise.uniform[own] + 0.5) % 1, kind)
    ab = frame_alpha_bar(levels)
    x_u = add_noise(x0[own], noise.eps[own], ab)
    made = x0_from_prediction(model(x_u, levels, actions[own]), x_u, ab, config.prediction)
    seen = x0.clone()
    seen[own] = ((made.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return seen
