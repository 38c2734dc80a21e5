"""Fidelity: how close a rollout stays to the real frames, frame by frame.

Shapes: S clips, T frames, H x W pixels, C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamrun.data.metrics import frame_mse, frame_ssim, psnr_from_mse
from dreamrun.evaluation.inputs import EvaluationInputs
from dreamrun.evaluation.statistics import estimate

EXAMPLE_FRAME = 16  # the best, median and worst clip are chosen by the PSNR of this generated frame


def fidelity_section(inputs: EvaluationInputs) -> dict[str, Any]:
    """PSNR and SSIM by frame for the rollouts and two baselines, and the example clips."""
    truth, lengths = inputs.truth, inputs.truth_lengths
    last_prompt_frame = inputs.clips.frames[:, inputs.config.num_prompt_frames - 1]
    return {
        **fidelity(truth, lengths, last_prompt_frame, inputs.rollouts, inputs.other_action_rollouts),
        "cases": example_clips(truth, inputs.rollouts, lengths),
    }


def curves(truth: np.ndarray, frames: np.ndarray, lengths: np.ndarray) -> dict[str, list[dict | None]]:
    """PSNR (of the pooled squared error) and SSIM at each frame, over all clips that reach it.

    Args:
        truth, frames: uint8 (S, T, H, W, C).
        lengths: int (S,), number of true frames of each clip.
    """
    mse, ssim = frame_mse(truth, frames, lengths), frame_ssim(truth, frames, lengths)
    num_frames = max(lengths, default=0)
    return {
        "psnr": [estimate(mse[:, t], transform=psnr_from_mse) for t in range(num_frames)],
        "ssim": [estimate(ssim[:, t]) for t in range(num_frames)],
    }


def fidelity(
    truth: np.ndarray,
    lengths: np.ndarray,
    last_prompt_frame: np.ndarray,
    rollouts: np.ndarray,
    other_action_rollouts: np.ndarray | None,
) -> dict[str, Any]:
    """`curves` of the rollouts, of repeating the last prompt frame, and of rollouts under another clip's actions.

    Args:
        truth: uint8 (S, T, H, W, C), the real frames after the prompt.
        lengths: int (S,), number of true frames of each clip.
        last_prompt_frame: uint8 (S, H, W, C).
        rollouts, other_action_rollouts: shaped as truth; None: there is no other clip.
    """
    repeated = np.broadcast_to(last_prompt_frame[:, None], truth.shape)
    rows = {"dream": rollouts, "repeat_prompt": repeated, "other_actions": other_action_rollouts}
    return {name: curves(truth, frames, lengths) for name, frames in rows.items() if frames is not None}


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
