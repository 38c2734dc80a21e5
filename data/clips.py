"""TODO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.actions import ActionSpace
from data.dataset import ClipDataset
from data.records import Record


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
