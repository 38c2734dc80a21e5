"""TODO."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
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
