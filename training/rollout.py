"""Rollouts: frames that the sampler generates one after another, under given actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from dreamrun.data.clips import Clips
from dreamrun.data.metrics import metrics_by_frame
from dreamrun.data.pixels import to_float, to_uint8
from dreamrun.games.space import ActionSpace
from dreamrun.model.sampler import Sampler

if TYPE_CHECKING:
    from dreamrun.export.onnx_sampler import OnnxSampler


def rollout(
    sampler: Sampler | OnnxSampler,
    frames: np.ndarray,
    actions: np.ndarray,
    space: ActionSpace,
    num_prompt: int,
    progress: str = "",
    seeds: list[int] | None = None,
) -> np.ndarray:
    """Continue the first `num_prompt` frames under given actions.

    Args:
        frames: uint8 (S, at least num_prompt, H, W, C).
        actions: recorded actions, (S, T) ids or (S, T, names) vectors; `actions[:, t]` leads into frame t.
        progress: title of a progress bar; "" shows none.
        seeds: one for the noise of each rollout; None: the sampler's own.

    Returns:
        uint8 (S, T, H, W, C), which starts with the prompt.
    """
    vectors = torch.from_numpy(space.vectors(actions))
    sampler.reset(to_float(frames[:, :num_prompt]), vectors[:, :num_prompt], seeds=seeds)
    generated: list[np.ndarray] = []
    for t in tqdm(range(num_prompt, actions.shape[1]), desc=progress, unit=" frames", disable=not progress):
        generated.append(to_uint8(sampler.step(vectors[:, t])))
    return np.concatenate((frames[:, :num_prompt], np.stack(generated, axis=1)), axis=1)


def rollout_metrics(clips: Clips, generated: np.ndarray, generated_other: np.ndarray | None, num_prompt: int) -> dict:
    """PSNR and SSIM per frame of rollouts and of two baselines, at the frames that are recorded in all clips.

    Args:
        generated: uint8 (S, T, H, W, C), rollouts from the clips' prompts under their own actions.
        generated_other: the same under `clips.other_actions`, the level that a model without control reaches.

    Returns:
        Plain values for JSON. "dream", "repeat_prompt" (the last prompt frame, repeated) and "other_actions" hold the
        curves; the last two are missing where there is no prompt or no `generated_other`.
    """
    end = clips.num_true_frames
    truth = clips.frames[:, num_prompt:end]
    report: dict = {"num_samples": len(truth), "num_prompt_frames": num_prompt, "first_frame": num_prompt}
    report["dream"] = metrics_by_frame(truth, generated[:, num_prompt:end])
    if num_prompt:
        repeated = np.repeat(clips.frames[:, num_prompt - 1 : num_prompt], truth.shape[1], axis=1)
        report["repeat_prompt"] = metrics_by_frame(truth, repeated)
    if generated_other is not None:
        report["other_actions"] = metrics_by_frame(truth, generated_other[:, num_prompt:end])
    return report
