"""Validation loss, PSNR and SSIM, and rollouts.

Shapes: S samples, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from data.actions import ActionSpace
from data.dataset import Batch, ClipDataset
from data.pixels import to_float, to_levels, to_uint8
from data.records import Record
from data.shards import Metadata
from data.video import comparison, grid
from model.config import ModelConfig
from model.dit import WorldModel
from model.sampler import Sampler
from training.distributed import gather, rank, world_size
from training.loss import as_dreamt, diffusion_loss

NOISE_BINS = 8  # equal ranges of noise levels that the validation loss is split by
ROLLOUT_SAMPLES, ROLLOUT_PROMPT, ROLLOUT_FRAMES = 4, 4, 32
GRID_FRAMES = 8  # moments of a rollout that its still picture shows, at most
SSIM_WINDOW = 7  # pixels on a side


def psnr(truth: np.ndarray, frames: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 arrays, from the squared error pooled over all of them.

    Pooled, so that one identical pair does not make the mean infinite; infinite only if all pairs are identical.
    """
    error = np.square(truth.astype(np.float64) - frames.astype(np.float64)).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(truth: np.ndarray, frames: np.ndarray) -> float:
    """Mean structural similarity of uint8 frames (S, H, W, C) (Wang et al., 2004)."""
    from skimage.metrics import structural_similarity  # here, as SciPy takes a while to import

    pairs = zip(truth, frames, strict=True)
    return float(np.mean([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs]))


def ssim_of_each(truth: Tensor, frames: Tensor) -> Tensor:
    """`ssim` of each frame (N, C, H, W), 0 to 255, on its device: float32 (N,), equal to scikit-image's within 1e-4."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(x, (SSIM_WINDOW, 1), 1), (1, SSIM_WINDOW), 1)

    x, y = truth / 255 - 0.5, frames / 255 - 0.5  # around zero, where squares lose least
    mean_x, mean_y, xx, yy, xy = mean(torch.cat((x, y, x * x, y * y, x * y), dim=1)).chunk(5, dim=1)
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)  # a sample's covariance
    var_x, var_y, cov = (sample * (a - b) for a, b in ((xx, mean_x**2), (yy, mean_y**2), (xy, mean_x * mean_y)))
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    similar = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (similar * (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)).mean(dim=(1, 2, 3))


def by_frame(truth: np.ndarray, frames: np.ndarray) -> dict[str, list[float | None]]:
    """PSNR and SSIM at each frame of uint8 (S, T, H, W, C); None where PSNR is infinite, as JSON has no infinity."""
    values = [psnr(truth[:, t], frames[:, t]) for t in range(truth.shape[1])]
    return {
        "psnr": [value if np.isfinite(value) else None for value in values],
        "ssim": [ssim(truth[:, t], frames[:, t]) for t in range(truth.shape[1])],
    }


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
        noise = as_dreamt(frames.movedim(-1, -3).shape, batch.seeds, model.device)
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
        noise = as_dreamt(frames.movedim(-1, -3).shape, batch.seeds, model.device)
        losses, x0 = diffusion_loss(model, model.config, to_float(frames), actions, noise)
        seen, truth = to_levels(x0).flatten(0, 1), frames.movedim(-1, -3).flatten(0, 1).float()
        error = (seen - truth).square().mean(dim=(1, 2, 3))
        own = torch.stack([column.sum() for column in (losses, error, ssim_of_each(truth, seen))])
        sums += torch.tensor([*own.tolist(), losses.numel()])
    return sums


def epoch_metrics(sums: Tensor) -> dict[str, float]:
    """From `epoch_sums`: means over frames; PSNR in dB from the squared error pooled over all of them, as in `psnr`."""
    loss, error, similarity = (sums[:3] / sums[3]).tolist()
    decibels = 10 * float(np.log10(255.0**2 / error)) if error else float("inf")
    return {"epoch/val_loss": loss, "epoch/psnr": decibels, "epoch/ssim": similarity}


@dataclass(frozen=True)
class Clips:
    """Real play to dream along with."""

    frames: np.ndarray  # uint8 (S, T, H, W, C); black after a record's end
    actions: np.ndarray  # recorded ones (S, T) or (S, T, names), each leading into the frame beside it
    space: ActionSpace
    fps: float
    record_ids: list[int]  # where they are from
    num_true_frames: int  # that every sample has, before the first one ends


def held_out_clips(
    dataset: ClipDataset, num_samples: int, num_frames: int, seed: int = 0, least_frames: int | None = None
) -> Clips:
    """The first `num_frames` of `num_samples` records, drawn by `seed`.

    Args:
        least_frames: records of so many frames will do, black and without actions after their end; None: num_frames.

    Raises:
        ValueError: too few records are that long.
    """
    least_frames = num_frames if least_frames is None else min(least_frames, num_frames)
    long_enough = np.flatnonzero(dataset.index.lengths >= least_frames)
    if num_samples < 1:
        raise ValueError(f"{num_samples} samples: at least 1 is needed")
    if len(long_enough) < num_samples:
        longest = max(dataset.index.lengths)
        raise ValueError(
            f"{num_samples} samples of {least_frames} frames were asked for, but only {len(long_enough)} records of "
            f"{dataset.folder}/{dataset.split} are that long (the longest has {longest})"
        )
    chosen = np.random.default_rng(seed).choice(long_enough, num_samples, replace=False)
    records: list[Record] = list(dataset.records(chosen))
    frames = np.zeros((num_samples, num_frames, *dataset.metadata.frame_shape), np.uint8)
    actions = dataset.metadata.actions.unknown(num_samples, num_frames)
    for row, record in enumerate(records):
        frames[row, : len(record)] = record.frames[:num_frames]
        actions[row, : len(record)] = record.leading_actions()[:num_frames]
    return Clips(
        frames=frames,
        actions=actions,
        space=dataset.metadata.actions,
        fps=dataset.metadata.fps,
        record_ids=[int(record_id) for record_id in chosen],
        num_true_frames=min(num_frames, *map(len, records)),
    )


def dream(
    sampler: Sampler,
    frames: np.ndarray,
    actions: np.ndarray,
    space: ActionSpace,
    num_prompt: int,
    progress: str = "",
    seeds: list[int] | None = None,
) -> np.ndarray:
    """Dream on from the first `num_prompt` frames under given actions.

    Args:
        frames: uint8 (S, at least num_prompt, H, W, C).
        actions: recorded ones, (S, T) ids or (S, T, names) vectors, each leading into the frame beside it.
        progress: what a progress bar is called; none is shown without it.
        seeds: of each dream's noise; None: as the sampler says.

    Returns:
        uint8 (S, T, H, W, C), the prompt included.
    """
    vectors = torch.from_numpy(space.vectors(actions))
    sampler.reset(to_float(frames[:, :num_prompt]), vectors[:, :num_prompt], seeds=seeds)
    dreamt: list[Tensor | np.ndarray] = []
    for t in tqdm(range(num_prompt, actions.shape[1]), desc=progress, unit=" frames", disable=not progress):
        dreamt.append(to_uint8(sampler.step(vectors[:, t])))
    return np.concatenate((frames[:, :num_prompt], np.stack(dreamt, axis=1)), axis=1)


@dataclass(frozen=True)
class Rollout:
    """What `rollout` has dreamt."""

    metrics: dict[str, float]  # PSNR in dB some frames after the prompt, by name
    video: np.ndarray  # of truth and dream, uint8 (T, H, W, 3)
    picture: np.ndarray  # for each sample a row of true frames, every few, and a row of dreamt ones: uint8 (H, W, 3)


def rollout(model: WorldModel, dataset: ClipDataset) -> Rollout | None:
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
        dreamt = dream(sampler, clips.frames[own], clips.actions[own], clips.space, ROLLOUT_PROMPT)
    dreamt = np.concatenate(gather(dreamt))
    curve = by_frame(clips.frames[:, ROLLOUT_PROMPT:], dreamt[:, ROLLOUT_PROMPT:])["psnr"]
    measured = {f"rollout/psnr_{n}": curve[n - 1] for n in (1, 4, 8, 16) if n <= len(curve) and curve[n - 1]}
    moments = list(range(ROLLOUT_PROMPT - 1, num_frames, max(1, num_frames // GRID_FRAMES)))
    video = comparison(clips.frames, dreamt, clips.actions, clips.space)
    return Rollout(measured, video, grid(clips.frames, dreamt, moments))


def check_fits(config: ModelConfig, metadata: Metadata, where: Path | str) -> None:
    """Whether a model can be used with a data set.

    Raises:
        ValueError: another frame size or action count.
    """
    height, width, channels = metadata.frame_shape
    if config.frame_shape != (channels, height, width):
        expected = f"{config.frame_width}x{config.frame_height}"
        raise ValueError(
            f"the model makes frames of {expected}, but those of {where} are {width}x{height} (width x height)"
        )
    if config.num_actions != len(metadata.actions) or config.action_kinds != metadata.actions.kinds:
        known = len(config.action_names) or config.num_actions
        raise ValueError(
            f"the model knows {known} {_what(config.action_kinds)}, but {where} has "
            f"{len(metadata.actions.names)} {_what(metadata.actions.kinds)}"
        )


def _what(kinds: tuple[str, ...]) -> str:
    return "buttons and axes" if kinds else "actions"
