"""Fidelity: how close a rollout stays to the real frames, frame by frame.

Shapes: S clips, T frames, H x W pixels, C channels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dreamrun.data.metrics import frame_mse, frame_ssim, psnr_from_mse
from dreamrun.data.plots import Line, line_plot
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.section import Block, Picture, Section, Table, Text, format_estimate
from dreamrun.evaluation.statistics import estimate

WORDS = (
    "Rollouts of held-out clips under the clips' own actions, compared with what really happened. Two baselines show "
    "what the model and its actions contribute: repeating the last prompt frame, and rollouts under another clip's "
    "actions. PSNR follows from the squared error pooled over all clips."
)
PERCEPTUAL = (
    "LPIPS, FID and FVD need pretrained networks (AlexNet or VGG, Inception, I3D). This project does not contain them "
    "and never downloads them. To measure these distances, write the clips with `dreamrun infer` and use the "
    "lpips package or a FID tool"
)
SHOWN_FRAMES = (1, 2, 4, 8, 16, 32, 64)
HEADLINE_FRAMES = (1, 8, 16)
ROWS = {
    "dream": "rollout",
    "repeat_prompt": "baseline: repeat the last prompt frame",
    "other_actions": "rollout under another clip's actions",
}
EXAMPLE_FRAME = 16  # the best, median and worst clip are chosen by the PSNR of this generated frame


def measure(context: EvaluationContext) -> dict[str, Any]:
    """`curves` of the rollouts, of the repeated last prompt frame, and of rollouts under another clip's actions."""
    truth, lengths = context.truth, context.truth_lengths
    clips, num_prompt = context.clips, context.config.num_prompt_frames
    repeated = np.broadcast_to(clips.frames[:, num_prompt - 1, None], truth.shape)
    rows = {"dream": context.rollouts, "repeat_prompt": repeated}
    if len(clips.frames) > 1 and not context.space.unconditional:
        rows["other_actions"] = context.continue_clips("rollouts, other actions", clips.other_actions(num_prompt))
    result: dict[str, Any] = {name: curves(truth, frames, lengths) for name, frames in rows.items()}
    return result | {"cases": example_clips(truth, context.rollouts, lengths)}


def curves(truth: np.ndarray, frames: np.ndarray, lengths: np.ndarray) -> dict[str, list[dict | None]]:
    """PSNR (of the pooled squared error) and SSIM at each frame, over the clips (S, T, H, W, C) that are so long."""
    mse, ssim = frame_mse(truth, frames, lengths), frame_ssim(truth, frames, lengths)
    num_frames = max(lengths, default=0)
    return {
        "psnr": [estimate(mse[:, t], transform=psnr_from_mse) for t in range(num_frames)],
        "ssim": [estimate(ssim[:, t]) for t in range(num_frames)],
    }


def example_clips(truth: np.ndarray, rollouts: np.ndarray, lengths: np.ndarray) -> dict[str, dict[str, Any]]:
    """The best, median and worst clip by the PSNR of frame EXAMPLE_FRAME, or of the last frame if there are fewer."""
    frame = int(min(EXAMPLE_FRAME, max(lengths)))
    mse = frame_mse(truth, rollouts, lengths)[:, frame - 1]
    order = np.argsort(mse)[: int(np.isfinite(mse).sum())]  # argsort puts NaN last
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    psnr = psnr_from_mse(mse)
    return {
        name: {"clip": int(clip), "frame": frame, "psnr": float(psnr[clip]) if np.isfinite(psnr[clip]) else None}
        for name, clip in chosen.items()
    }


def blocks(report: dict[str, Any]) -> Iterator[Block]:
    section, pictures = report["fidelity"], report["pictures"].get("shown", {})
    names = [name for name in ROWS if name in section]
    yield Text(WORDS)
    for metric, title, digits in (("psnr", "PSNR in dB", 1), ("ssim", "SSIM", 3)):
        length = len(section["dream"][metric])
        frames = [frame for frame in SHOWN_FRAMES if frame <= length]
        rows = [
            [ROWS[name], *(format_estimate(section[name][metric][f - 1], digits) for f in frames)] for name in names
        ]
        counts = ["n clips", *(str(section["dream"][metric][f - 1]["n"]) for f in frames)]
        yield Table([f"{title}, generated frame", *map(str, frames)], [*rows, counts])
        lines = [Line(ROWS[name], list(range(1, length + 1)), section[name][metric]) for name in names]
        yield Picture(f"{title} by frame", line_plot(title, "generated frame", lines))
    for name, example in section["cases"].items():
        if name in pictures:
            psnr = "identical" if example["psnr"] is None else f"{example['psnr']:.1f} dB at frame {example['frame']}"
            yield Picture(f"{name} clip ({psnr}): real game, rollout, difference", pictures[name], wide=True)


def headlines(report: dict[str, Any]) -> Iterator[list[str]]:
    section = report["fidelity"]
    for frame in HEADLINE_FRAMES:
        if frame <= len(section["dream"]["psnr"]):
            psnr, repeated = (
                format_estimate(section[name]["psnr"][frame - 1], 1, " dB") for name in ("dream", "repeat_prompt")
            )
            yield [f"PSNR at frame {frame}", psnr, f"repeating the last prompt frame: {repeated}"]


def refuse_perceptual(context: EvaluationContext) -> None:
    """Says why this project measures no perceptual distance."""
    raise ValueError(PERCEPTUAL)


FIDELITY = Section("fidelity", measure, "Fidelity by horizon: PSNR and SSIM", blocks, headlines, of_export=True)
PERCEPTUAL_DISTANCES = Section("perceptual", refuse_perceptual, "Perceptual distances")
