"""Rollouts: frames that the sampler generates one after another, under given actions."""

from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

from data.actions import ActionSpace
from data.pixels import to_float, to_uint8
from model.sampler import Sampler


def rollout(
    sampler: Sampler,
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
