"""The action strip: dreams from one prompt, a column under each held action and one without actions.

It shows at a glance whether a model obeys its actions. Shapes: K columns, T frames, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from dreamrun.data.clips import held_out_clips
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.pixels import to_float, to_uint8
from dreamrun.data.video import side_by_side, titled, upscale
from dreamrun.model.dit import WorldModel
from dreamrun.model.rollout import rollout
from dreamrun.model.sampler import Sampler
from dreamrun.training.distributed import all_gather_object, rank, world_size

MAX_COLUMNS = 10
STRIP_PROMPT, STRIP_FRAMES = 4, 36  # frames; the prompt is part of the strip
_SCALE = 2  # of the pixels


def action_rollouts(model: WorldModel, dataset: ClipDataset) -> tuple[np.ndarray, list[str]] | None:
    """Rollouts from one held-out prompt, equal but for their actions; the same for any number of ranks.

    Args:
        model: as from `prepare_for_inference`.

    Returns:
        uint8 (K, T, H, W, C), and a name for each: of no action first, then of each action that is held.
        None if there are no actions, or no record is as long as the prompt.
    """
    space = dataset.metadata.actions
    if space.unconditional or dataset.index.lengths.max() < STRIP_PROMPT:
        return None
    clip = held_out_clips(dataset, 1, STRIP_PROMPT)
    held = space.held_actions()[: MAX_COLUMNS - 1]
    actions = np.concatenate((space.unknown(1), held))
    frames = np.repeat(clip.frames, len(actions), axis=0)
    future = np.repeat(actions[:, None], STRIP_FRAMES - STRIP_PROMPT, axis=1)
    actions = np.concatenate((np.repeat(clip.actions, len(actions), axis=0), future), axis=1)
    columns = np.array_split(np.arange(len(actions)), world_size())[rank()]  # this rank's
    generated = frames[:0]
    if len(columns):
        seeds = [0] * len(columns)  # the same noise: only the actions differ
        prompt, vectors = to_float(frames[columns, :STRIP_PROMPT]), torch.from_numpy(space.vectors(actions[columns]))
        new = np.stack([to_uint8(frame) for frame in rollout(Sampler(model), prompt, vectors, seeds=seeds)], 1)
        generated = np.concatenate((frames[columns, :STRIP_PROMPT], new), 1)
    parts = [part for part in all_gather_object(generated) if len(part)]
    return np.concatenate(parts), ["no action", *map(space.format, held)]


def action_strip(rollouts: np.ndarray, names: list[str]) -> np.ndarray:
    """`action_rollouts` side by side with their names: uint8 (T, height, width, 3)."""
    return side_by_side([titled(upscale(frames, _SCALE), name) for frames, name in zip(rollouts, names, strict=True)])
