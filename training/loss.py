"""The diffusion loss and its noise, for training and validation; scheduled sampling.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dreamrun.data.pixels import to_levels
from dreamrun.model.attention import TemporalMask
from dreamrun.model.config import ModelConfig
from dreamrun.model.diffusion import add_noise, frame_alpha_sigma, target, x0_from_prediction

# The x0 loss has the weight 1 / sigma^2. The denominator is clamped here, which matters below u = 0.03 with the
# sigmoid schedule, and below 0.1 with the linear one.
MIN_NOISE_POWER = 0.01
MAX_CONTEXT_NOISE_LEVEL = 0.1  # teacher forcing: the context is noised to levels below this, as in a rollout
TIMESTEP_SHIFT = 3.0  # teacher forcing: shifts levels towards pure noise, where only the context tells what comes next
SCHEDULED_SAMPLING_PASSES = 3  # of `apply_scheduled_sampling`

NoiseLevels = Literal["uniform", "logit-normal", "teacher-forcing", "teacher-forcing-logit-normal"]  # see `draw_noise`


@dataclass(frozen=True)
class Noise:
    """All random numbers of the loss. They are drawn before it, so that two losses can share them."""

    levels: Tensor  # (B, T) in [0, 1], independent for each frame (diffusion forcing, arXiv 2407.01392)
    eps: Tensor  # (B, T, C, H, W) standard normal
    clip_uniform: Tensor  # (B,) in [0, 1): decides on action dropout and scheduled sampling of each clip
    level_uniform: Tensor  # (B, T) in [0, 1): `to_noise_levels` made the levels from these
    # Teacher forcing: noise of the context, a second, nearly clean copy of the clip. The noisy frames attend to it.
    # None: the noisy frames attend to one another.
    context_levels: Tensor | None = None  # (B, T)
    context_eps: Tensor | None = None  # (B, T, C, H, W)

    def select(self, clips: Tensor) -> Noise:
        """The noise of some clips: (B,) bool, or their indices."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[clips] for name, value in values.items() if value is not None})


def draw_noise(shape: torch.Size, seeds: np.ndarray, device: torch.device, kind: NoiseLevels = "uniform") -> Noise:
    """Draw noise for frames of `shape` (B, T, C, H, W). Each clip's noise depends only on its own seed, uint64 (B,).

    So a clip has the same noise in every batch, micro-batch and rank. On a CPU, seeding one generator again for each
    clip is faster than one draw for the whole batch (46 ms against 75 ms for 32 clips of 32 frames of 64x64, because a
    clip fits into the cache). On a GPU it takes two kernel launches a clip, and nothing waits for the device.

    Args:
        kind: distribution of the noise levels.
            "uniform": uniform in [0, 1) (diffusion forcing).
            "logit-normal": middle levels more often (arXiv 2403.03206, section 3.1).
            "teacher-forcing": high levels more often (arXiv 2403.03206, eq. 23), and each frame attends to a nearly
            clean context, as in a rollout. In diffusion forcing a frame rarely has two clean frames before it, but the
            network needs two to see motion.
            "teacher-forcing-logit-normal": the same with logit-normal levels, shifted alike.
    """
    batch, num_frames = shape[:2]
    num_drawn = 2 * num_frames if kind.startswith("teacher-forcing") else num_frames
    generator = torch.Generator(device)
    uniform = torch.empty(batch, 1 + num_drawn, device=device)
    eps = torch.empty(batch, num_drawn, *shape[2:], device=device)
    for clip, seed in enumerate(seeds.tolist()):
        generator.manual_seed(seed)
        uniform[clip].uniform_(generator=generator)
        eps[clip].normal_(generator=generator)
    clip_uniform, level_uniform, context_uniform = uniform.split((1, num_frames, num_drawn - num_frames), dim=1)
    noise = Noise(to_noise_levels(level_uniform, kind), eps[:, :num_frames], clip_uniform[:, 0], level_uniform)
    if not kind.startswith("teacher-forcing"):
        return noise
    context_levels = MAX_CONTEXT_NOISE_LEVEL * context_uniform
    return replace(noise, context_levels=context_levels, context_eps=eps[:, num_frames:])


def validation_noise(shape: torch.Size, seeds: np.ndarray, device: torch.device) -> Noise:
    """Noise for validation, the same for every kind of training: uniform levels and a nearly clean context.

    Arguments as for `draw_noise`.
    """
    noise = draw_noise(shape, seeds, device, "teacher-forcing")
    return replace(noise, levels=noise.level_uniform)


def to_noise_levels(uniform: Tensor, kind: NoiseLevels) -> Tensor:
    """Uniform numbers in [0, 1) -> noise levels of the same shape, distributed as `kind` says."""
    if kind == "uniform":
        return uniform
    if kind.endswith("logit-normal"):
        uniform = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).sigmoid()
    if kind == "logit-normal":
        return uniform
    return TIMESTEP_SHIFT * uniform / (1 + (TIMESTEP_SHIFT - 1) * uniform)


def drop_actions(actions: Tensor, share: float, clip_uniform: Tensor) -> Tensor:
    """Replace all actions of a share of the clips with zeros, so that the network also learns without actions.

    Args:
        actions: (B, T, A).
        share: of the clips, in [0, 1]. Clips with the lowest `clip_uniform` (B,) lose their actions.
    """
    return actions * (clip_uniform >= share)[:, None, None]


def diffusion_loss(
    model: nn.Module,
    config: ModelConfig,
    x0: Tensor,
    actions: Tensor,
    noise: Noise,
    context_frames: Tensor | None = None,
    temporal_mask: TemporalMask = "causal",
    text: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss `|v_hat - v|^2`, or `|velocity_hat - velocity|^2` on the linear schedule, whatever the network predicts.

    For x0 networks both are `|x0_hat - x0|^2 / sigma^2` (arXiv 2202.00512, section 4).

    Args:
        model: a `WorldModel`, possibly compiled or wrapped in DDP.
        x0: (B, T, C, H, W) clean frames in [-1, 1].
        actions: (B, T, A).
        context_frames: (B, T, C, H, W) the network attends to these in place of x0; None: x0 itself.
        temporal_mask: which frames a frame attends to. Teacher forcing has a mask of its own.
        text: (B, L) uint8, words for each clip; None: the network is told none.

    Returns:
        Loss of each frame (B, T), a mean over its pixels and channels; and the predicted x0, shaped as x0.
    """
    level = frame_alpha_sigma(noise.levels, config.schedule)
    context_frames = x0 if context_frames is None else context_frames
    x_u, prediction = _predict(model, config, x0, actions, noise, context_frames, temporal_mask, text)
    x0_hat = x0_from_prediction(prediction, x_u, level, config.prediction)
    if config.prediction != "x0" and context_frames is x0:
        squared_error = (prediction - target(x0, noise.eps, level, config.prediction)).square()
    else:
        squared_error = (x0_hat - x0).square() / level.sigma.square().clamp(min=MIN_NOISE_POWER)
    return squared_error.mean(dim=(2, 3, 4)), x0_hat


def _predict(
    model: nn.Module,
    config: ModelConfig,
    x0: Tensor,
    actions: Tensor,
    noise: Noise,
    context_frames: Tensor,
    temporal_mask: TemporalMask = "causal",
    text: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add noise and run the network: the noisy frames and the prediction, both shaped as x0."""
    told = {} if text is None else {"text": text}
    level = frame_alpha_sigma(noise.levels, config.schedule)
    if noise.context_levels is None or noise.context_eps is None:  # diffusion forcing: the noisy frames are the context
        x_u = add_noise(context_frames, noise.eps, level)
        return x_u, model(x_u, noise.levels, actions, temporal_mask, **told)
    x_u = add_noise(x0, noise.eps, level)
    context_level = frame_alpha_sigma(noise.context_levels, config.schedule)
    context = add_noise(context_frames, noise.context_eps, context_level)
    # One forward pass over both copies of the clip. Both copies of a frame have the same position in time.
    mask, positions = teacher_forcing_mask(x0.shape[1], x0.device)
    frames, levels = torch.cat((context, x_u), dim=1), torch.cat((noise.context_levels, noise.levels), dim=1)
    prediction = model(frames, levels, torch.cat((actions, actions), dim=1), mask, positions, **told)
    return x_u, prediction[:, x0.shape[1] :]


def teacher_forcing_mask(num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Attention mask and positions for a clean copy of T frames followed by a noisy copy.

    Every frame attends to the clean frames before it and to itself (block diffusion, arXiv 2503.09573, section 3.1).

    Returns:
        (2T, 2T) bool, True where the frame of a row may attend to the frame of a column; and (2T,) int64 positions.
    """
    positions = torch.arange(num_frames, device=device).repeat(2)
    is_clean = torch.arange(2 * num_frames, device=device) < num_frames
    is_same = torch.eye(2 * num_frames, dtype=torch.bool, device=device)
    return is_same | (is_clean & (positions < positions[:, None])), positions


@torch.no_grad()
def apply_scheduled_sampling(
    model: nn.Module,
    config: ModelConfig,
    x0: Tensor,
    actions: Tensor,
    noise: Noise,
    kind: NoiseLevels,
    share: float,
    text: Tensor | None = None,
    context_frames: Tensor | None = None,
) -> Tensor:
    """Replace the frames of a share of the clips with the network's own predictions of them.

    In a rollout the context consists of generated frames, in training of real frames. This difference makes rollouts
    drift; training on generated context reduces it. One forward pass predicts all frames of a clip, at other noise
    levels than in the loss, and rounds them to 8 bits, as a rollout does. The next pass takes this result as context:
    errors build on errors without a frame-by-frame rollout (parallel scheduled sampling, arXiv 1906.04331).

    Args:
        x0, actions, noise, text: as for `diffusion_loss`, which takes the result as `context_frames`.
        kind: the kind of `noise`.
        share: of the clips, in [0, 1]. Clips with the highest `clip_uniform` are chosen, so that few clips get both
            this and action dropout. A third of the chosen clips gets one pass, a third two, a third three.
        context_frames: of the clips that are not chosen, shaped as x0; None: x0.

    Returns:
        (B, T, C, H, W) in [-1, 1]; if `share` is 0, the context frames themselves.
    """
    context_frames = x0 if context_frames is None else context_frames
    if not share:
        return context_frames
    context_frames = context_frames.clone()
    for number in range(SCHEDULED_SAMPLING_PASSES):
        chosen = noise.clip_uniform >= 1 - share * (1 - number / SCHEDULED_SAMPLING_PASSES)
        if not chosen.any():
            break
        rotated_uniform = (noise.level_uniform[chosen] + (number + 1) / (SCHEDULED_SAMPLING_PASSES + 1)) % 1
        levels = to_noise_levels(rotated_uniform, kind)
        pass_noise = replace(noise.select(chosen), levels=levels, level_uniform=rotated_uniform)
        chosen_text = None if text is None else text[chosen]
        x_u, prediction = _predict(
            model, config, x0[chosen], actions[chosen], pass_noise, context_frames[chosen], text=chosen_text
        )
        level = frame_alpha_sigma(pass_noise.levels, config.schedule)
        x0_hat = x0_from_prediction(prediction, x_u, level, config.prediction)
        context_frames[chosen] = to_levels(x0_hat) / 127.5 - 1
    return context_frames
