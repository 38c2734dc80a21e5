"""How near a dream stays to what really happened, frame by frame; and how good one step of the network is.

Shapes: S clips, T frames, H x W x C pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from data.dataset import ClipDataset
from data.pixels import to_float, to_uint8
from evaluation.statistics import estimate
from model.dit import WorldModel
from training.device import autocast
from training.loss import diffusion_loss, validation_noise
from training.metrics import frame_mse, frame_ssim, psnr_from_mse

CASE_FRAME = 16  # best, median and worst clips are those by PSNR at this dreamt frame


def curves(truth: np.ndarray, frames: np.ndarray, lengths: np.ndarray) -> dict[str, list[dict | None]]:
    """PSNR (of the pooled squared error) and SSIM at each frame, over all clips that reach it."""
    errors, alike = frame_mse(truth, frames, lengths), frame_ssim(truth, frames, lengths)
    reached = range(max(lengths, default=0))
    return {
        "psnr": [estimate(errors[:, t], transform=psnr_from_mse) for t in reached],
        "ssim": [estimate(alike[:, t]) for t in reached],
    }


def fidelity(
    truth: np.ndarray, lengths: np.ndarray, last: np.ndarray, dreams: np.ndarray, other: np.ndarray | None
) -> dict[str, Any]:
    """The dream beside what takes no model, and beside the dream under another clip's actions.

    Args:
        truth: uint8 (S, T, H, W, C), what followed the prompt.
        lengths: (S,) how much of it is true.
        last: uint8 (S, H, W, C), the prompt's last frame.
        dreams, other: shaped as truth; None: there was no other clip.
    """
    repeated = np.broadcast_to(last[:, None], truth.shape)
    rows = {"dream": dreams, "repeat_prompt": repeated, "other_actions": other}
    return {name: curves(truth, frames, lengths) for name, frames in rows.items() if frames is not None}


def cases(truth: np.ndarray, dreams: np.ndarray, lengths: np.ndarray) -> dict[str, dict[str, Any]]:
    """The best, the median and the worst clip, by PSNR at frame CASE_FRAME, or at the last frame if there are fewer."""
    frame = int(min(CASE_FRAME, max(lengths)))
    error = frame_mse(truth, dreams, lengths)[:, frame - 1]
    order = np.argsort(error)[: int(np.isfinite(error).sum())]  # NaN comes last
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    psnr = psnr_from_mse(error)
    return {
        name: {"clip": int(clip), "frame": frame, "psnr": float(psnr[clip]) if np.isfinite(psnr[clip]) else None}
        for name, clip in chosen.items()
    }


@torch.inference_mode()
def single_step(model: WorldModel, dataset: ClipDataset, num_clips: int, batch_size: int) -> dict[str, Any]:
    """As training logs it: the loss, and PSNR and SSIM of the x0 that the network sees at random levels,
    looking back at nearly clean frames.

    And `action_ratio`: the loss under another clip's actions, the noise being the same, over that under their own; None
    where there is no other clip, or are no actions.

    Args:
        model: not packed.
        dataset: of clips as long as the model's window.
    """
    # NaN-free rows, one a clip: loss, loss under other actions, squared error, similarity.
    rows: list[tuple[float, float, float, float]] = []
    batch_size = min(batch_size, dataset.num_clips)
    has_others = batch_size > 1 and not dataset.metadata.actions.unconditional
    for batch in dataset.batches(batch_size):
        frames, actions = (torch.from_numpy(array).to(model.device) for array in (batch.frames, batch.actions))
        x0 = to_float(frames)
        noise = validation_noise(x0.shape, batch.seeds, model.device)
        with autocast(model.device):
            own, seen = diffusion_loss(model, model.config, x0, actions, noise)
            other, _ = diffusion_loss(model, model.config, x0, actions.roll(1, dims=0), noise)
        lengths = np.full(len(frames), frames.shape[1])
        seen = to_uint8(seen)
        errors, alike = (measure(batch.frames, seen, lengths).mean(1) for measure in (frame_mse, frame_ssim))
        rows.extend(zip(own.mean(1).tolist(), other.mean(1).tolist(), errors, alike, strict=True))
        if len(rows) >= num_clips:
            break
    loss, other_loss, error, similarity = np.array(rows).T
    return {
        "loss": estimate(loss),
        "psnr": estimate(error, transform=psnr_from_mse),
        "ssim": estimate(similarity),
        "action_ratio": estimate(other_loss, loss) if has_others else None,
    }
