"""One forward pass of the network on noised held-out clips, as training validates it.

Shapes: S clips, T frames, H x W pixels, C channels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dreamrun.data.batch import to_uint8
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metrics import frame_mse, frame_ssim, psnr_from_mse
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.section import Block, Section, Table, Text, format_estimate
from dreamrun.evaluation.statistics import estimate
from dreamrun.model.inference import autocast
from dreamrun.model.loss import diffusion_loss, validation_corruption

WORDS = (
    "One forward pass of the network, as in the validation of training: every frame of a clip has a random noise level "
    "of its own, and its context is nearly clean. The last figure is the loss under another clip's actions divided by "
    "the loss under the true actions: above 1, the network uses the actions."
)


@torch.inference_mode()
def measure(context: EvaluationContext) -> dict[str, Any]:
    """Validation loss, and PSNR and SSIM of the predicted x0, on clips as long as the model's window.

    `action_ratio` is the loss under another clip's actions, with the same noise, divided by the loss under the clip's
    own actions. It is None without another clip or without actions.
    """
    model, num_clips, rows = context.model.to(context.device), context.sizes["num_clips"], []
    dataset = ClipDataset(context.data, context.split, model.config.window_frames, seed=context.config.seed)
    batch_size = min(context.config.batch_size, dataset.num_clips)
    has_other_actions = batch_size > 1 and not context.space.unconditional
    for batch in dataset.batches(batch_size):
        clips = batch.to(model.device)
        x0, corruption = clips.x0, validation_corruption(clips.x0.shape, batch.seeds, model.device)
        with autocast(model.device):
            loss, predicted_x0, _ = diffusion_loss(model, model.config, x0, clips.actions, corruption)
            other_loss = loss
            if has_other_actions:
                other_loss = diffusion_loss(model, model.config, x0, clips.actions.roll(1, dims=0), corruption).losses
        predicted, lengths = to_uint8(predicted_x0), np.full(len(batch), x0.shape[1])
        mse, ssim = (metric(batch.frames.numpy(), predicted, lengths).mean(1) for metric in (frame_mse, frame_ssim))
        rows.extend(zip(loss.mean(1).tolist(), other_loss.mean(1).tolist(), mse, ssim, strict=True))
        if len(rows) >= num_clips:
            break
    losses, other_losses, mse, ssim = np.array(rows[:num_clips]).T  # the last batch may have had more
    return {
        "loss": estimate(losses),
        "psnr": estimate(mse, transform=psnr_from_mse),
        "ssim": estimate(ssim),
        "action_ratio": estimate(other_losses, losses) if has_other_actions else None,
    }


def blocks(report: dict[str, Any]) -> Iterator[Block]:
    section = report["single_step"]
    yield Text(WORDS)
    titles = {"loss": "loss", "psnr": "PSNR (dB)", "ssim": "SSIM", "action_ratio": "loss, wrong / true actions"}
    measured = {name: estimate for name, estimate in section.items() if estimate}
    figures = [format_estimate(estimate, 4 if name == "loss" else 3) for name, estimate in measured.items()]
    yield Table([*(titles[name] for name in measured), "n clips"], [[*figures, str(section["loss"]["n"])]])


def headlines(report: dict[str, Any]) -> Iterator[list[str]]:
    ratio = report["single_step"]["action_ratio"]
    if ratio:
        yield ["Loss under wrong actions", format_estimate(ratio, 2, " times"), "a model that ignores actions: 1"]


SINGLE_STEP = Section("single_step", measure, "A single forward pass", blocks, headlines)
