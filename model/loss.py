"""The diffusion loss of frames under a corruption, and the noise of clips; for training, validation and evaluation.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector, P patches of a frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dreamrun.model.attention import TemporalMask
from dreamrun.model.config import ModelConfig
from dreamrun.model.diffusion import add_noise, frame_alpha_sigma, target, x0_from_prediction

# The x0 loss has the weight 1 / sigma^2. The denominator is clamped here, which matters below u = 0.03 with the
# sigmoid schedule, and below 0.1 with the linear one.
MIN_NOISE_POWER = 0.01
LEVEL_SHIFT = 3.0  # shifts levels towards pure noise, where only the context tells what comes next
MAX_CONTEXT_NOISE_LEVEL = 0.1  # teacher forcing: the context is noised to levels below this, as in a rollout


@dataclass(frozen=True)
class LevelDistribution:
    """The distribution of noise levels; by default uniform in [0, 1), as in diffusion forcing (arXiv 2407.01392)."""

    logit_normal: bool = False  # middle levels more often (arXiv 2403.03206, section 3.1)
    shifted: bool = False  # high levels more often (arXiv 2403.03206, eq. 23)

    def levels(self, uniform: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) -> noise levels of the same shape."""
        if self.logit_normal:
            uniform = torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6)).sigmoid()
        return LEVEL_SHIFT * uniform / (1 + (LEVEL_SHIFT - 1) * uniform) if self.shifted else uniform


UNIFORM = LevelDistribution()


@dataclass(frozen=True)
class Noise:
    """All random numbers of clips. They are drawn before the loss, so that two losses can share them."""

    eps: Tensor  # (B, T, C, H, W) standard normal
    level_uniform: Tensor  # (B, T) in [0, 1), for the noise levels
    # (B,) in [0, 1), decides on action dropout and on generated context of each clip. On the CPU, so that nothing waits
    # for the device to learn which clips these are.
    clip_uniform: Tensor
    # Teacher forcing: noise of the context, a second, nearly clean copy of the clip. The noisy frames attend to it.
    context_levels: Tensor | None = None  # (B, T)
    context_eps: Tensor | None = None  # (B, T, C, H, W)

    def select(self, clips: Tensor) -> Noise:
        """The noise of some clips: their indices, on the CPU."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        rows = {device: clips.to(device, non_blocking=True) for device in {self.eps.device, self.clip_uniform.device}}
        chosen = {name: value[rows[value.device]] for name, value in values.items() if value is not None}
        return replace(self, **chosen)


def draw_noise(shape: torch.Size, seeds: np.ndarray, device: torch.device, with_context: bool = False) -> Noise:
    """Draw noise for frames of `shape` (B, T, C, H, W). Each clip's noise depends only on its own seed, uint64 (B,).

    So a clip has the same noise in every batch, micro-batch and rank. On a CPU, seeding one generator again for each
    clip is faster than one draw for the whole batch (46 ms against 75 ms for 32 clips of 32 frames of 64x64, because a
    clip fits into the cache). On a GPU it takes one kernel launch a clip, and nothing waits for the device.
    """
    batch, num_frames = shape[:2]
    num_drawn = 2 * num_frames if with_context else num_frames
    on_cpu = torch.Generator()
    on_device = on_cpu if device.type == "cpu" else torch.Generator(device)
    uniform = torch.empty(batch, 1 + num_drawn)
    eps = torch.empty(batch, num_drawn, *shape[2:], device=device)
    for clip, seed in enumerate(seeds.tolist()):
        for generator in {on_cpu, on_device}:
            generator.manual_seed(seed)
        uniform[clip].uniform_(generator=on_cpu)
        eps[clip].normal_(generator=on_device)
    levels = uniform[:, 1:].to(device, non_blocking=True)
    level_uniform, context_uniform = levels.split((num_frames, num_drawn - num_frames), dim=1)
    noise = Noise(eps[:, :num_frames], level_uniform, uniform[:, 0])
    if not with_context:
        return noise
    context_levels = MAX_CONTEXT_NOISE_LEVEL * context_uniform
    return replace(noise, context_levels=context_levels, context_eps=eps[:, num_frames:])


@dataclass(frozen=True)
class Corruption:
    """What the network is given of clips, and which frames count in the loss."""

    levels: Tensor  # (B, T) noise levels in [0, 1]
    eps: Tensor  # (B, T, C, H, W) standard normal
    # A nearly clean copy of the clip, which comes first in the network's input. None: there is no such copy.
    context_levels: Tensor | None = None  # (B, T)
    context_eps: Tensor | None = None  # (B, T, C, H, W)
    mask: TemporalMask = "causal"  # which of the T or 2 T frames a frame attends to
    positions: Tensor | None = None  # of these frames in time; None: 0, 1, 2 ...
    keeps_action: Tensor | None = None  # (B, T) bool, the other actions are hidden; None: all are kept
    is_target: Tensor | None = None  # (B, T) bool, the frames that count in the loss; None: all do
    context_frames: Tensor | None = None  # (B, T, C, H, W) the network attends to these; None: to the clips' own
    text: Tensor | None = None  # (B, L) uint8, words for each clip; None: the network is given none

    def hide_actions(self, actions: Tensor) -> Tensor:
        """Actions (B, T, A) with zeros where they are hidden."""
        return actions if self.keeps_action is None else actions * self.keeps_action[..., None]

    def clip_losses(self, losses: Tensor) -> Tensor:
        """Losses of frames (B, T) -> the mean of each clip (B,)."""
        if self.is_target is None:
            return losses.mean(dim=1)
        return (losses * self.is_target).sum(1) / self.is_target.sum(1)


def causal_corruption(noise: Noise, levels: Tensor, keeps_action: Tensor | None = None) -> Corruption:
    """Each frame has a level of its own and attends to those before it: to clean ones, if there is noise for them."""
    if noise.context_levels is None:
        return Corruption(levels, noise.eps, keeps_action=keeps_action)
    mask, positions = teacher_forcing_mask(levels.shape[1], levels.device)
    return Corruption(levels, noise.eps, noise.context_levels, noise.context_eps, mask, positions, keeps_action)


@lru_cache(maxsize=8)
def teacher_forcing_mask(num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Attention mask and positions for a clean copy of T frames followed by a noisy copy.

    Every frame attends to the clean frames before it and to itself (block diffusion, arXiv 2503.09573, section 3.1).

    Returns:
        (2T, 2T) bool, True where the frame of a row may attend to the frame of a column; and (2T,) int64 positions.
    """
    with torch.inference_mode(False):  # training may need what validation has made
        positions = torch.arange(num_frames, device=device).repeat(2)
        is_clean = torch.arange(2 * num_frames, device=device) < num_frames
        is_same = torch.eye(2 * num_frames, dtype=torch.bool, device=device)
        return is_same | (is_clean & (positions < positions[:, None])), positions


def validation_corruption(
    shape: torch.Size, seeds: np.ndarray, device: torch.device, text: Tensor | None = None
) -> Corruption:
    """That of validation, the same for every kind of training: uniform levels behind a nearly clean context.

    Arguments as for `draw_noise`.
    """
    noise = draw_noise(shape, seeds, device, with_context=True)
    return replace(causal_corruption(noise, noise.level_uniform), text=text)


class Denoised(NamedTuple):
    """What a network makes of corrupted clips."""

    losses: Tensor  # (B, T), of each frame, a mean over its pixels and channels
    x0: Tensor  # (B, T, C, H, W)
    tokens: Tensor | None  # (B, T, P, D) of the context, with `with_tokens`


def diffusion_loss(
    network: nn.Module,
    config: ModelConfig,
    x0: Tensor,
    actions: Tensor,
    corruption: Corruption,
    with_tokens: bool = False,
) -> Denoised:
    """The loss `|v_hat - v|^2`, or `|velocity_hat - velocity|^2` on the linear schedule, whatever the network predicts.

    For x0 networks both are `|x0_hat - x0|^2 / sigma^2` (arXiv 2202.00512, section 4).

    Args:
        network: a `WorldModel`, possibly compiled or wrapped in DDP.
        x0: (B, T, C, H, W) clean frames in [-1, 1].
        actions: (B, T, A).
        with_tokens: return the tokens of the context too.
    """
    num_frames, level = x0.shape[1], frame_alpha_sigma(corruption.levels, config.schedule)
    context_frames = x0 if corruption.context_frames is None else corruption.context_frames
    actions, levels = corruption.hide_actions(actions), corruption.levels
    if corruption.context_levels is None:  # diffusion forcing: the noisy frames are the context
        frames = x_u = add_noise(context_frames, corruption.eps, level)
    else:  # one forward pass over both copies of the clip; both copies of a frame have the same position in time
        x_u = add_noise(x0, corruption.eps, level)
        frames = torch.cat((_noisy_context(corruption, config, context_frames), x_u), dim=1)
        levels, actions = torch.cat((corruption.context_levels, levels), dim=1), torch.cat((actions, actions), dim=1)
    output = network(frames, levels, actions, corruption.mask, corruption.positions, corruption.text, with_tokens)
    output, tokens = (output[0], output[1][:, :num_frames]) if with_tokens else (output, None)
    prediction = output[:, -num_frames:]
    x0_hat = x0_from_prediction(prediction, x_u, level, config.prediction)
    if config.prediction != "x0" and context_frames is x0:
        squared_error = (prediction - target(x0, corruption.eps, level, config.prediction)).square()
    else:
        squared_error = (x0_hat - x0).square() / level.sigma.square().clamp(min=MIN_NOISE_POWER)
    return Denoised(squared_error.mean(dim=(2, 3, 4)), x0_hat, tokens)


def context_tokens(
    network: nn.Module, config: ModelConfig, x0: Tensor, actions: Tensor, corruption: Corruption
) -> Tensor:
    """The tokens of the context of `diffusion_loss` from a pass of their own, (B, T, P, D)."""
    context_frames = x0 if corruption.context_frames is None else corruption.context_frames
    context = _noisy_context(corruption, config, context_frames)
    return network(context, corruption.context_levels, corruption.hide_actions(actions), with_tokens=True)[1]


def _noisy_context(corruption: Corruption, config: ModelConfig, context_frames: Tensor) -> Tensor:
    assert corruption.context_levels is not None and corruption.context_eps is not None
    return add_noise(
        context_frames, corruption.context_eps, frame_alpha_sigma(corruption.context_levels, config.schedule)
    )
