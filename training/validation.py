"""Validation: the loss on held-out clips, PSNR and SSIM over the whole split, and rollouts.

Shapes: S samples, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from dreamrun.data.clips import held_out_clips
from dreamrun.data.dataset import Batch, ClipDataset
from dreamrun.data.metrics import batched_ssim, metrics_by_frame, psnr_from_mse
from dreamrun.data.pixels import to_float, to_levels, to_uint8
from dreamrun.data.video import comparison, grid
from dreamrun.data.workers import prefetch
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import autocast
from dreamrun.model.rollout import rollout
from dreamrun.model.sampler import Sampler
from dreamrun.model.text_encoder import encode_bytes
from dreamrun.training.distributed import all_gather_object, all_reduce_mean, raise_on_all_ranks, rank, world_size
from dreamrun.training.fill_loss import draw_fill_task, fill_loss
from dreamrun.training.loss import diffusion_loss, draw_noise, validation_noise
from dreamrun.training.outcomes import outcome_metrics, outcome_sums

NOISE_BINS = 8  # the validation loss is also logged for each of these equal ranges of noise levels
ROLLOUT_SAMPLES, ROLLOUT_PROMPT, ROLLOUT_FRAMES = 4, 4, 32
GRID_FRAMES = 8  # at most so many time steps of a rollout are in its grid


def validate(
    model: WorldModel, batches: list[Batch], bf16: bool | None = None, names: Sequence[str] = ("",)
) -> dict[str, float]:
    """Validation loss over all ranks' batches; see `validation_metrics`.

    `val/fill_loss` is the loss of filling in frames, if the model learns it. For an outcome head see `outcome_metrics`.

    Args:
        names: of the data sets, by `Batch.number`; of several, loss and action ratio are also given for each.
    """
    with autocast(model.device, bf16):
        by_set = [
            all_reduce_mean(validation_sums(model, [batch for batch in batches if batch.number == number]))
            for number in range(len(names))
        ]
        metrics = validation_metrics(torch.stack(by_set).sum(0))
        if len(names) > 1:
            for name, sums in zip(names, by_set, strict=True):
                of_set = validation_metrics(sums)
                metrics |= {f"{metric}_{name}": of_set[metric] for metric in ("val/loss", "val/action_ratio")}
        if model.config.can_fill:
            total, num_clips = all_reduce_mean(fill_sums(model, batches)).tolist()
            metrics["val/fill_loss"] = total / num_clips
        if model.config.outcomes:
            metrics |= outcome_metrics(all_reduce_mean(outcome_sums(model, batches)))
    return metrics


@torch.no_grad()
def validation_sums(model: WorldModel, batches: list[Batch]) -> Tensor:
    """Sums for `validation_metrics`, float64 (2, 2 + NOISE_BINS): row 0 sums values over frames, row 1 counts frames.

    Columns: the loss, the loss under another clip's actions, and the loss in each range of noise levels. Each frame has
    a uniformly random noise level and attends to a nearly clean context, as in a rollout; the clip's seed draws both.
    Sums of several ranks may be added or averaged.
    """
    sums = torch.zeros(2, 2 + NOISE_BINS, dtype=torch.float64)
    for batch in batches:
        frames, actions = (torch.from_numpy(array).to(model.device) for array in (batch.frames, batch.actions))
        x0 = to_float(frames)
        noise, text = validation_noise(x0.shape, batch.seeds, model.device), _text_of(model, batch)
        losses = diffusion_loss(model, model.config, x0, actions, noise, text=text)[0]
        wrong_action_losses = diffusion_loss(model, model.config, x0, actions.roll(1, dims=0), noise, text=text)[0]
        bins = (noise.levels * NOISE_BINS).long().clamp(max=NOISE_BINS - 1)
        columns = (losses, wrong_action_losses, *(losses[bins == number] for number in range(NOISE_BINS)))
        for number, column in enumerate(columns):
            sums[:, number] += torch.tensor([column.sum().item(), column.numel()])
    return sums


def _text_of(model: WorldModel, batch: Batch) -> Tensor | None:
    """The captions of a batch on the model's device, if it has learnt words."""
    return encode_bytes(batch.captions).to(model.device) if model.config.words else None


@torch.no_grad()
def fill_sums(model: WorldModel, batches: list[Batch]) -> Tensor:
    """The loss of filling in frames, summed over clips, and the number of clips: float64 (2,).

    The clip's seed draws what is known of it, the noise, and the level of the unknown frames, which is uniform. Sums of
    several ranks may be added or averaged.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        frames, actions = (torch.from_numpy(array).to(model.device) for array in (batch.frames, batch.actions))
        x0 = to_float(frames)
        noise = draw_noise(x0.shape, batch.seeds, model.device)
        task = draw_fill_task(batch.seeds, x0.shape[1], model.device)
        losses = fill_loss(model, model.config, x0, actions, noise, task, "uniform", _text_of(model, batch))
        sums += torch.tensor([losses.sum().item(), len(losses)])
    return sums


def validation_metrics(sums: Tensor) -> dict[str, float]:
    """Means from `validation_sums`.

    `val/action_ratio` is the loss under wrong actions divided by the loss. It is above 1 if the network uses actions.
    """
    loss, wrong_action_loss, *loss_by_noise = (sums[0] / sums[1]).tolist()
    action_ratio = wrong_action_loss / loss if loss else float("nan")
    by_noise = {f"val/loss_noise_{number / NOISE_BINS:.3f}": value for number, value in enumerate(loss_by_noise)}
    return {"val/loss": loss, "val/action_ratio": action_ratio, **by_noise}


def validate_epoch(
    model: WorldModel, dataset: ClipDataset, batch_size: int, max_clips: int | None, bf16: bool | None = None
) -> dict[str, float]:
    """Loss, PSNR and SSIM over the split, or over `max_clips` clips of it; see `epoch_metrics`.

    Each rank measures its own part; the ranks communicate only at the end.

    Args:
        batch_size: clips that a rank processes at a time.
    """
    batches = cast(Generator, prefetch(dataset.sequential_batches(batch_size, max_clips)))

    def measure() -> Tensor:
        with closing(batches), autocast(model.device, bf16):
            return epoch_sums(model, tqdm(batches, "validating", leave=False, disable=rank() > 0 or None))

    return epoch_metrics(all_reduce_mean(raise_on_all_ranks(measure)))


@torch.no_grad()
def epoch_sums(model: WorldModel, batches: Iterable[Batch]) -> Tensor:
    """Sums for `epoch_metrics`, float64 (4,): loss, squared error and SSIM, summed over frames; number of frames.

    Squared error and SSIM are those of the predicted x0, rounded to 8-bit values. Noise is drawn as in
    `validation_sums`. Sums of several ranks may be added or averaged.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    for batch in batches:
        frames, actions = (torch.from_numpy(array).to(model.device) for array in (batch.frames, batch.actions))
        x0 = to_float(frames)
        noise = validation_noise(x0.shape, batch.seeds, model.device)
        losses, x0_hat = diffusion_loss(model, model.config, x0, actions, noise, text=_text_of(model, batch))
        predicted = rearrange(to_levels(x0_hat), "b t c h w -> (b t) c h w")
        truth = rearrange(frames, "b t h w c -> (b t) c h w").float()
        squared_error = (predicted - truth).square().mean(dim=(1, 2, 3))
        totals = torch.stack([column.sum() for column in (losses, squared_error, batched_ssim(truth, predicted))])
        sums += torch.tensor([*totals.tolist(), losses.numel()])
    return sums


def epoch_metrics(sums: Tensor) -> dict[str, float]:
    """Means over frames, from `epoch_sums`; PSNR in dB from the squared error pooled over all frames, as in `psnr`."""
    loss, mse, ssim = (sums[:3] / sums[3]).tolist()
    return {"epoch/val_loss": loss, "epoch/psnr": float(psnr_from_mse(mse)), "epoch/ssim": ssim}


@dataclass(frozen=True)
class ValidationRollout:
    """A rollout, and the real play that it is compared with."""

    metrics: dict[str, float]  # PSNR in dB, 1, 4, 8 and 16 frames after the prompt
    video: np.ndarray  # real and generated frames side by side, uint8 (T, H, W, 3)
    grid: np.ndarray  # for each sample a row of real frames and a row of generated ones, uint8 (H, W, 3)


def validation_rollout(model: WorldModel, dataset: ClipDataset) -> ValidationRollout | None:
    """Continue a few held-out records under their recorded actions. The result is the same for any number of ranks.

    Args:
        model: as from `prepare_for_inference`.

    Returns:
        None if no record is longer than the prompt.
    """
    lengths = dataset.index.lengths
    num_frames = min(ROLLOUT_FRAMES, int(lengths.max()))
    num_samples = min(ROLLOUT_SAMPLES, int((lengths >= num_frames).sum()))
    if num_frames <= ROLLOUT_PROMPT:
        return None
    clips = held_out_clips(dataset, num_samples, num_frames)
    samples = np.array_split(np.arange(num_samples), world_size())[rank()]  # this rank's
    generated = clips.frames[:0, ROLLOUT_PROMPT:]
    if len(samples):
        sampler = Sampler(model, seed=int(samples[0]))
        prompt = to_float(clips.frames[samples, :ROLLOUT_PROMPT])
        vectors = torch.from_numpy(clips.space.vectors(clips.actions[samples]))
        generated = np.stack([to_uint8(frame) for frame in rollout(sampler, prompt, vectors)], 1)
    generated = np.concatenate(all_gather_object(generated))
    psnr_by_frame = metrics_by_frame(clips.frames[:, ROLLOUT_PROMPT:], generated)["psnr"]
    psnr_after = {n: psnr_by_frame[n - 1] for n in (1, 4, 8, 16) if n <= len(psnr_by_frame)}
    generated = np.concatenate((clips.frames[:, :ROLLOUT_PROMPT], generated), 1)
    grid_times = list(range(ROLLOUT_PROMPT - 1, num_frames, max(1, num_frames // GRID_FRAMES)))
    return ValidationRollout(
        metrics={f"rollout/psnr_{n}": value for n, value in psnr_after.items() if value},
        video=comparison(clips.frames, generated, clips.actions, clips.space),
        grid=grid(clips.frames, generated, grid_times),
    )
