"""Validation loss, PSNR and SSIM, and rollouts.

Shapes: S samples, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.clips import held_out_clips
from data.dataset import Batch, ClipDataset
from data.pixels import to_float, to_levels
from data.video import comparison, grid
from model.dit import WorldModel
from model.sampler import Sampler
from training.distributed import all_gather_object, rank, world_size
from training.loss import diffusion_loss, validation_noise
from training.metrics import batched_ssim, metrics_by_frame, psnr_from_mse
from training.rollout import rollout

NOISE_BINS = 8  # equal ranges of noise levels that the validation loss is split by
ROLLOUT_SAMPLES, ROLLOUT_PROMPT, ROLLOUT_FRAMES = 4, 4, 32
GRID_FRAMES = 8  # moments of a rollout that its still picture shows, at most


@torch.no_grad()
def validation_sums(model: WorldModel, batches: list[Batch]) -> Tensor:
    """What `validation_metrics` is made from, float64 (2, 2 + NOISE_BINS): sums over frames, and how many there were.

    Of the loss, of the loss under another clip's actions, and of the loss in each bin of noise levels. Each frame is
    noised to a uniformly random level and looks back at nearly clean ones, as in a dream, by its clip's seed. Sums of
    several processes may be added or averaged.
    """
    sums = torch.zeros(2, 2 + NOISE_BINS, dtype=torch.float64)
    for batch in batches:
        frames, actions = (torch.from_numpy(array).to(model.device) for array in (batch.frames, batch.actions))
        noise = validation_noise(frames.movedim(-1, -3).shape, batch.seeds, model.device)
        x0 = to_float(frames)
        own = diffusion_loss(model, model.config, x0, actions, noise)[0]
        other = diffusion_loss(model, model.config, x0, actions.roll(1, dims=0), noise)[0]
        bins = (noise.levels * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
        for column, losses in enumerate((own, other, *(own[bins == number] for number in range(NOISE_BINS)))):
            sums[:, column] += torch.tensor([losses.sum().item(), losses.numel()])
    return sums


def validation_metrics(sums: Tensor) -> dict[str, float]:
    """From `validation_sums`: the loss, how much wrong actions worsen it (above 1: they are heeded), loss by noise."""
    loss, other, *by_noise = (sums[0] / sums[1]).tolist()
    binned = {f"val/loss_noise_{number / NOISE_BINS:.3f}": value for number, value in enumerate(by_noise)}
    return {"val/loss": loss, "val/action_ratio": other / loss if loss else float("nan"), **binned}


@torch.no_grad()
def epoch_sums(model: WorldModel, batches: Iterable[Batch]) -> Tensor:
    """What `epoch_metrics` is made from, float64 (4,): sums over frames, and how many there were.

    Of the loss, of the squared error of the network's x0, rounded to colours of 0 to 255, and of its SSIM. Each frame
    is noised as in `validation_sums`. Sums of several processes may be added or averaged.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in batches:
        frames, actions = (torch.from_numpy(array).to(model.device) for array in (batch.frames, batch.actions))
        noise = validation_noise(frames.movedim(-1, -3).shape, batch.seeds, model.device)
        losses, x0 = diffusion_loss(model, model.config, to_float(frames), actions, noise)
        seen, truth = to_levels(x0).flatten(0, 1), frames.movedim(-1, -3).flatten(0, 1).float()
        error = (seen - truth).square().mean(dim=(1, 2, 3))
        own = torch.stack([column.sum() for column in (losses, error, batched_ssim(truth, seen))])
        sums += torch.tensor([*own.tolist(), losses.numel()])
    return sums


def epoch_metrics(sums: Tensor) -> dict[str, float]:
    """From `epoch_sums`: means over frames; PSNR in dB from the squared error pooled over all of them, as in `psnr`."""
    loss, error, similarity = (sums[:3] / sums[3]).tolist()
    return {"epoch/val_loss": loss, "epoch/psnr": float(psnr_from_mse(error)), "epoch/ssim": similarity}


@dataclass(frozen=True)
class ValidationRollout:
    """What `rollout` has dreamt."""

    metrics: dict[str, float]  # PSNR in dB some frames after the prompt, by name
    video: np.ndarray  # of truth and dream, uint8 (T, H, W, 3)
    picture: np.ndarray  # for each sample a row of true frames, every few, and a row of dreamt ones: uint8 (H, W, 3)


def validation_rollout(model: WorldModel, dataset: ClipDataset) -> ValidationRollout | None:
    """Dream along with a few held-out records, each rank with some of them; the same dreams for any number of ranks.

    Args:
        model: ready to dream, as from `for_dreaming`.

    Returns:
        None where no record is long enough.
    """
    lengths = dataset.index.lengths
    num_frames = min(ROLLOUT_FRAMES, int(lengths.max()))
    num_samples = min(ROLLOUT_SAMPLES, int((lengths >= num_frames).sum()))
    if num_frames <= ROLLOUT_PROMPT:
        return None
    clips = held_out_clips(dataset, num_samples, num_frames)
    own = np.array_split(np.arange(num_samples), world_size())[rank()]
    dreamt = clips.frames[:0]
    if len(own):
        sampler = Sampler(model, seed=int(own[0]))
        dreamt = rollout(sampler, clips.frames[own], clips.actions[own], clips.space, ROLLOUT_PROMPT)
    dreamt = np.concatenate(all_gather_object(dreamt))
    curve = metrics_by_frame(clips.frames[:, ROLLOUT_PROMPT:], dreamt[:, ROLLOUT_PROMPT:])["psnr"]
    measured = {f"rollout/psnr_{n}": curve[n - 1] for n in (1, 4, 8, 16) if n <= len(curve) and curve[n - 1]}
    moments = list(range(ROLLOUT_PROMPT - 1, num_frames, max(1, num_frames // GRID_FRAMES)))
    video = comparison(clips.frames, dreamt, clips.actions, clips.space)
    return ValidationRollout(measured, video, grid(clips.frames, dreamt, moments))
