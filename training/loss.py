"""The one loss, for training and validation.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.pixels import to_levels
from model.config import ModelConfig
from model.diffusion import add_noise, frame_alpha_bar, v_from_x0_eps, x0_from_prediction

# An x0 network's loss is weighed by 1 / (1 - alpha_bar), held down below this (that is below u = 0.03).
MIN_NOISE_POWER = 0.01
PAST_LEVEL = 0.1  # teacher forcing: levels of the past lie below it, as does the context noise of a dream
SHIFT = 3.0  # teacher forcing: levels lie nearer to pure noise, where a frame is dreamt from its past alone
SCHEDULED_SAMPLING_PASSES = 3  # of `with_own_frames`

NoiseLevels = Literal["uniform", "logit-normal", "teacher-forcing"]  # see `draw_noise`


@dataclass(frozen=True)
class Noise:
    """What is random in the loss, drawn apart so that two losses can share it."""

    levels: Tensor  # (B, T) in [0, 1], independent for each frame (diffusion forcing, arXiv 2407.01392)
    eps: Tensor  # (B, T, C, H, W) standard normal
    coins: Tensor  # (B,) uniform in [0, 1), for `drop_actions`
    uniform: Tensor  # (B, T) in [0, 1), what the levels were made from
    # Of a second, nearly clean copy of the clip, which is what the frames look back at; None: they see one another.
    past: tuple[Tensor, Tensor] | None = None  # its levels (B, T) and eps (B, T, C, H, W)


def draw_noise(shape: torch.Size, seeds: np.ndarray, device: torch.device, kind: NoiseLevels = "uniform") -> Noise:
    """Noise for frames of `shape` (B, T, C, H, W), each clip's from its own seed, uint64 (B,), alone.

    So it is the same whatever batch, micro-batch or rank the clip is in. One generator, seeded again for each clip,
    is faster on a CPU than one draw for all (46 ms to 75 for 32 clips of 32 frames of 64x64, as a clip fits the cache);
    on a GPU it is two launches a clip, and nothing waits for the device.

    "uniform": levels as they come (diffusion forcing). "logit-normal": the middle ones more often (arXiv 2403.03206,
    section 3.1). "teacher-forcing": high ones more often (the same, eq. 23), and each frame looks back at nearly clean
    ones, as in a dream: in diffusion forcing a frame hardly ever sees two clean ones before it, and motion takes two.
    """
    batch, num_frames = shape[:2]
    num_drawn = 2 * num_frames if kind == "teacher-forcing" else num_frames
    generator = torch.Generator(device)
    uniform = torch.empty(batch, 1 + num_drawn, device=device)
    eps = torch.empty(batch, num_drawn, *shape[2:], device=device)
    for clip, seed in enumerate(seeds.tolist()):
        generator.manual_seed(seed)
        uniform[clip].uniform_(generator=generator)
        eps[clip].normal_(generator=generator)
    coins, own, rest = uniform.split((1, num_frames, num_drawn - num_frames), dim=1)
    past = (PAST_LEVEL * rest, eps[:, num_frames:]) if kind == "teacher-forcing" else None
    return Noise(to_noise_levels(own, kind), eps[:, :num_frames], coins[:, 0], own, past)


def validation_noise(shape: torch.Size, seeds: np.ndarray, device: torch.device) -> Noise:
    """Noise as in `draw_noise` to judge by, whatever the training: a nearly clean past, and uniform levels."""
    noise = draw_noise(shape, seeds, device, "teacher-forcing")
    return replace(noise, levels=noise.uniform)


def to_noise_levels(uniform: Tensor, kind: NoiseLevels) -> Tensor:
    """Uniform numbers in [0, 1) -> noise levels of the same shape."""
    if kind == "uniform":
        return uniform
    if kind == "logit-normal":
        return torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).sigmoid()
    return SHIFT * uniform / (1 + (SHIFT - 1) * uniform)


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
        seen: (B, T, C, H, W) what is looked back at in place of x0; None: x0 itself.

    Returns:
        Loss of each frame (B, T), a mean over its numbers; and the x0 that the network saw, shaped as x0.
    """
    ab = frame_alpha_bar(noise.levels)
    x_u, prediction = _run(model, x0, actions, noise, x0 if seen is None else seen)
    x0_hat = x0_from_prediction(prediction, x_u, ab, config.prediction)
    if config.prediction == "v" and seen is None:
        squared = (prediction - v_from_x0_eps(x0, noise.eps, ab)).square()
    else:
        squared = (x0_hat - x0).square() / (1 - ab).clamp(min=MIN_NOISE_POWER)
    return squared.mean(dim=(2, 3, 4)), x0_hat


def _run(model, x0: Tensor, actions: Tensor, noise: Noise, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The noised frames, and what the network makes of them, both shaped as x0."""
    ab = frame_alpha_bar(noise.levels)
    if noise.past is None:  # frames are looked back at as they are noised themselves
        x_u = add_noise(seen, noise.eps, ab)
        return x_u, model(x_u, noise.levels, actions)
    x_u = add_noise(x0, noise.eps, ab)
    levels, eps = noise.past
    past = add_noise(seen, eps, frame_alpha_bar(levels))
    # One run over both copies, each frame at its own place in time.
    mask, positions = teacher_forcing_mask(x0.shape[1], x0.device)
    frames, levels = torch.cat((past, x_u), dim=1), torch.cat((levels, noise.levels), dim=1)
    prediction = model(frames, levels, torch.cat((actions, actions), dim=1), mask, positions)
    return x_u, prediction[:, x0.shape[1] :]


def teacher_forcing_mask(num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For a clean copy of T frames followed by a noisy one: (2T, 2T), True where a row may look; (2T,) positions.

    Every frame sees the clean frames before it, and itself (as in block diffusion, arXiv 2503.09573, section 3.1).
    """
    positions = torch.arange(num_frames, device=device).repeat(2)
    is_clean = torch.arange(2 * num_frames, device=device) < num_frames
    itself = torch.eye(2 * num_frames, dtype=torch.bool, device=device)
    return itself | (is_clean & (positions < positions[:, None])), positions


@torch.no_grad()
def apply_scheduled_sampling(
    model, config: ModelConfig, x0: Tensor, actions: Tensor, noise: Noise, kind: NoiseLevels, share: float
) -> Tensor:
    """x0 with the frames of a share of the clips as the network itself makes them, for it to learn from its errors.

    A dream looks back at its own frames, training at real ones: that is where drift comes from. Each frame is predicted
    in one run, from other noise levels than in the loss, and rounded to 8 bits, as dreams are when they are shown. The
    next pass looks back at what the last one made, so that errors grow on errors without a dream frame by frame
    (parallel scheduled sampling, arXiv 1906.04331).

    Args:
        x0, actions, noise: as for `diffusion_loss`, which takes the result as `seen`.
        kind: how `noise` was drawn.
        share: of the clips; those whose coins are highest, as those with the lowest have their actions hidden. A third
            of them goes through one pass, a third through two, a third through three.
    """
    if not share:
        return x0
    seen = x0.clone()
    for number in range(SCHEDULED_SAMPLING_PASSES):
        own = noise.coins >= 1 - share * (1 - number / SCHEDULED_SAMPLING_PASSES)
        if not own.any():
            break
        uniform = (noise.uniform[own] + (number + 1) / (SCHEDULED_SAMPLING_PASSES + 1)) % 1
        past = noise.past and tuple(drawn[own] for drawn in noise.past)
        turned = Noise(to_noise_levels(uniform, kind), noise.eps[own], noise.coins[own], uniform, past)
        x_u, prediction = _run(model, x0[own], actions[own], turned, seen[own])
        made = x0_from_prediction(prediction, x_u, frame_alpha_bar(turned.levels), config.prediction)
        seen[own] = to_levels(made) / 127.5 - 1
    return seen
