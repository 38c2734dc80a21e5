"""One optimizer step.

Shapes: B clips, T frames, H x W pixels, C channels, A action vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dreamrun.data.captions import draw_phrasings
from dreamrun.data.dataset import Batch
from dreamrun.data.pixels import to_float
from dreamrun.model.config import ModelConfig
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import autocast
from dreamrun.model.text_encoder import encode_bytes
from dreamrun.training.config import TrainConfig
from dreamrun.training.distributed import all_reduce_mean
from dreamrun.training.fill_loss import choose_fill_clips, choose_image_clips, draw_fill_task, fill_loss
from dreamrun.training.loss import Noise, apply_scheduled_sampling, diffusion_loss, draw_noise, drop_actions
from dreamrun.training.optimizer import learning_rate
from dreamrun.training.outcomes import OutcomeReader, OutcomeTargets, mean_outcome_loss, read_outcomes
from dreamrun.training.self_forcing import generate_context
from dreamrun.training.state import TrainState


class MicroBatch(NamedTuple):
    """B clips on the device."""

    frames: Tensor  # uint8 (B, T, H, W, C)
    actions: Tensor  # (B, T, A)
    seeds: np.ndarray  # uint64 (B,)
    targets: OutcomeTargets | None  # for the outcome head
    text: Tensor | None  # uint8 (B, L), what the network is told of each clip


def train_step(state: TrainState, batch: Batch, config: TrainConfig, max_steps: int) -> Tensor:
    """Train on this rank's part of a batch: update weights, averaged weights, statistics and counters.

    A step whose loss or gradient is not finite is counted, but leaves weights and optimizer as they were.

    Args:
        max_steps: of the whole run, for the learning rate schedule.

    Returns:
        The gradient norm before clipping, a scalar on the device. Nothing here waits for the device.
    """
    learns_text = state.model.config.words
    text = encode_bytes(draw_phrasings(batch.captions, batch.seeds)) if learns_text else None
    micro_batches = split_batch(batch, config.accumulate, state.model.device, text)
    total_loss = torch.zeros((), device=state.model.device)
    for number, micro_batch in enumerate(micro_batches, start=1):
        # DDP averages gradients over ranks once a step, in the last backward pass.
        sync = number == len(micro_batches) or state.network is state.model
        with nullcontext() if sync else cast(DistributedDataParallel, state.network).no_sync():
            loss = training_loss(state, micro_batch, config) / len(micro_batches)
            loss.backward()
        total_loss += loss.detach()

    grad_norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step, max_steps)
    # By this flag the optimizer skips a bad step without waiting for the device.
    state.optimizer.found_inf = state.stats.add(all_reduce_mean(total_loss), grad_norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    update_ema(state.ema, state.model, config.ema_decay, state.step)

    state.step += 1
    state.batch += 1
    return grad_norm


def training_flop(config: ModelConfig, options: dict[str, Any]) -> float:
    """FLOP of one optimizer step; a backward pass takes twice those of a forward pass.

    Args:
        options: of the run, as in train_config.json, without scheduled sampling, which takes more.
    """
    frames = options["batch_size"] * (options["clip_frames"] or config.window_frames)
    copies = 2 if options["noise_levels"].startswith("teacher-forcing") else 1  # a clean and a noisy copy of each clip
    return 3 * config.flops_per_pass * frames * (copies + (1 - copies) * options["fill_share"])


def split_batch(batch: Batch, num_parts: int, device: torch.device, text: Tensor | None = None) -> list[MicroBatch]:
    """Move a batch to the device, as bytes, and split it into micro-batches."""
    tensors = (torch.as_tensor(array).to(device, non_blocking=True) for array in (batch.frames, batch.actions))
    frames, actions = (tensor.chunk(num_parts) for tensor in tensors)
    seeds = np.split(batch.seeds, np.cumsum([len(part) for part in frames])[:-1])
    targets: Sequence[OutcomeTargets | None] = [None] * len(frames)
    if batch.outcomes is not None:
        targets = OutcomeTargets.from_batch(batch.outcomes, device).chunk(num_parts)
    texts: Sequence[Tensor | None] = [None] * len(frames) if text is None else text.to(device).chunk(num_parts)
    return [MicroBatch(*parts) for parts in zip(frames, actions, seeds, targets, texts, strict=True)]


def training_loss(state: TrainState, batch: MicroBatch, config: TrainConfig) -> Tensor:
    """Mean loss of clips, a scalar: the diffusion loss, and the losses of the outcome head if there are targets.

    A share of the clips is trained on filling in frames, a share on frames without context if words are learnt, and the
    others on play. A loss is that of one clip, so that a clip counts the same in every micro-batch and rank.
    """
    assert config.noise_levels and config.fill_share is not None, "apply with_recipe first"
    x0 = to_float(batch.frames)
    noise = draw_noise(x0.shape, batch.seeds, x0.device, config.noise_levels)
    if batch.targets is not None:
        return _loss_with_outcomes(state, x0, batch, batch.targets, noise, config)
    is_fill = choose_fill_clips(batch.seeds, config.fill_share)
    is_image = ~is_fill & (choose_image_clips(batch.seeds) if batch.text is not None else False)
    losses = []
    for clips, clip_losses in (
        (~is_fill & ~is_image, _play_losses),
        (is_fill, _fill_losses),
        (is_image, _image_losses),
    ):
        if clips.any():
            rows = torch.from_numpy(np.flatnonzero(clips)).to(x0.device, non_blocking=True)
            text = None if batch.text is None else batch.text[rows]
            part = x0[rows], batch.actions[rows], noise.select(rows), batch.seeds[clips], text
            losses.append(clip_losses(state, *part, config))
    return torch.cat(losses).mean()


def _play_losses(
    state: TrainState,
    x0: Tensor,
    actions: Tensor,
    noise: Noise,
    seeds: np.ndarray,
    text: Tensor | None,
    config: TrainConfig,
) -> Tensor:
    """Loss of each clip (B,) of predicting frames from those before them."""
    actions = drop_actions(actions, config.action_dropout, noise.clip_uniform)
    context_frames = _context_frames(state, x0, actions, noise, seeds, config, text)
    with autocast(x0.device, config.bf16):
        losses, _ = diffusion_loss(state.network, state.model.config, x0, actions, noise, context_frames, text=text)
    return losses.mean(dim=1)


def _loss_with_outcomes(
    state: TrainState, x0: Tensor, batch: MicroBatch, targets: OutcomeTargets, noise: Noise, config: TrainConfig
) -> Tensor:
    """Mean loss of clips, a scalar, of the outcome head, and of the network too unless the head alone is trained."""
    actions = drop_actions(batch.actions, config.action_dropout, noise.clip_uniform)
    next_actions = drop_actions(targets.next_actions, config.action_dropout, noise.clip_uniform)
    context_frames = _context_frames(state, x0, actions, noise, batch.seeds, config)
    with autocast(x0.device, config.bf16):
        if config.outcomes == "head":
            logits = read_outcomes(state.network, state.model.config, context_frames, actions, noise, next_actions)
            return mean_outcome_loss(logits, targets)
        reader = OutcomeReader(state.network, next_actions)
        losses, _ = diffusion_loss(reader, state.model.config, x0, actions, noise, context_frames)
        assert reader.logits is not None
        return losses.mean() + mean_outcome_loss(reader.logits, targets)


def _context_frames(
    state: TrainState,
    x0: Tensor,
    actions: Tensor,
    noise: Noise,
    seeds: np.ndarray,
    config: TrainConfig,
    text: Tensor | None = None,
) -> Tensor:
    """The frames that noisy ones attend to, shaped as x0: self-forcing and scheduled sampling replace some.

    Clips with the highest `clip_uniform` get scheduled sampling, and those below them self-forcing.
    """
    assert config.noise_levels and config.scheduled_sampling is not None, "apply with_recipe first"
    kind, share, forced_share = config.noise_levels, config.scheduled_sampling, config.self_forcing
    is_forced = (noise.clip_uniform < 1 - share) & (noise.clip_uniform >= 1 - share - forced_share)
    context_frames = generate_context(state.ema, x0, actions, seeds, is_forced, config.bf16) if forced_share else x0
    # An autocast block of its own, because autocast caches weights without gradients in the first one and forgets them
    # at its end.
    with autocast(x0.device, config.bf16):
        return apply_scheduled_sampling(
            state.model, state.model.config, x0, actions, noise, kind, share, text, context_frames
        )


def _fill_losses(
    state: TrainState,
    x0: Tensor,
    actions: Tensor,
    noise: Noise,
    seeds: np.ndarray,
    text: Tensor | None,
    config: TrainConfig,
) -> Tensor:
    """Loss of each clip (B,) of filling in missing frames."""
    assert config.noise_levels, "apply with_recipe first"
    task = draw_fill_task(seeds, x0.shape[1], x0.device)
    with autocast(x0.device, config.bf16):
        return fill_loss(state.network, state.model.config, x0, actions, noise, task, config.noise_levels, text)


def _image_losses(
    state: TrainState,
    x0: Tensor,
    actions: Tensor,
    noise: Noise,
    seeds: np.ndarray,
    text: Tensor | None,
    config: TrainConfig,
) -> Tensor:
    """Loss of each clip (B,) of predicting each frame from words alone: it attends to no other frame."""
    alone = torch.eye(x0.shape[1], dtype=torch.bool, device=x0.device)
    noise = replace(noise, context_levels=None, context_eps=None)
    with autocast(x0.device, config.bf16):
        losses, _ = diffusion_loss(
            state.network, state.model.config, x0, torch.zeros_like(actions), noise, temporal_mask=alone, text=text
        )
    return losses.mean(dim=1)


def update_ema(ema: WorldModel, model: WorldModel, max_decay: float, step: int) -> None:
    """Move the averaged weights towards the weights.

    The decay rises with the step to `max_decay`, so that the average forgets the first steps quickly:
    (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage.
    """
    decay = min(max_decay, (1 + step) / (10 + step))
    averages, weights = ([weight.detach() for weight in source.parameters()] for source in (ema, model))
    torch._foreach_lerp_(averages, weights, 1 - decay)
