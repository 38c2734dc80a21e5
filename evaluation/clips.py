"""Real play to judge by, drawn by seed: the same for every checkpoint.

Shapes: S clips, T frames, H x W x C pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.actions import is_known
from data.dataset import ClipDataset, cut_clip
from data.games.policies import MEAN_HOLD_STEPS
from data.records import Record


@dataclass(frozen=True)
class RealClips:
    """Stretches of records, one a record; black and without actions after a record's end."""

    frames: np.ndarray  # uint8 (S, T, H, W, C)
    actions: np.ndarray  # recorded ones, (S, T) or (S, T, names), each leading into the frame beside it
    lengths: np.ndarray  # int (S,), true frames of each
    record_ids: np.ndarray  # int (S,), where they are from
    starts: np.ndarray  # int (S,), the first frame's place in its record

    def other_actions(self, num_prompt: int) -> np.ndarray:
        """As `actions`, but after the prompt those of the clip before, from its start again where it is too short."""
        actions = self.actions.copy()
        for clip in range(len(actions)):
            theirs = self.actions[clip - 1, num_prompt : self.lengths[clip - 1]]
            actions[clip, num_prompt:] = theirs[np.arange(actions.shape[1] - num_prompt) % len(theirs)]
        return actions


def draw_clips(dataset: ClipDataset, num_clips: int, num_frames: int, least_frames: int, seed: int) -> RealClips:
    """At most `num_clips` clips of at most `num_frames` frames, from anywhere in records drawn by `seed`.

    Raises:
        ValueError: no record has `least_frames`.
    """
    lengths = dataset.index.lengths
    long_enough = np.flatnonzero(lengths >= least_frames)
    if not len(long_enough):
        raise ValueError(
            f"no record of {dataset.folder}/{dataset.split} has {least_frames} frames: the longest has {max(lengths)}"
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(long_enough)[:num_clips]
    starts = rng.integers(0, np.maximum(0, lengths[chosen] - num_frames) + 1)
    frames = np.zeros((len(chosen), num_frames, *dataset.metadata.frame_shape), np.uint8)
    actions = dataset.metadata.actions.unknown(len(chosen), num_frames)
    true_lengths = np.minimum(lengths[chosen], num_frames)
    for row, (record, start) in enumerate(zip(dataset.records(chosen), starts, strict=True)):
        length = true_lengths[row]
        frames[row, :length], actions[row, :length] = cut_clip(record, start, length, know_leading=True)
    return RealClips(frames, actions, true_lengths.astype(int), chosen, starts)


def draw_records(dataset: ClipDataset, num_records: int, seed: int) -> list[Record]:
    """At most so many whole records, drawn by `seed`."""
    return list(dataset.records(np.random.default_rng(seed).permutation(len(dataset.index.lengths))[:num_records]))


def scripted_actions(clips: RealClips, num_dreams: int, num_frames: int, seed: int) -> np.ndarray:
    """(S, T) or (S, T, names): recorded actions as often as real play takes them, each held for a random while.

    Raises:
        ValueError: none is known.
    """
    rng = np.random.default_rng(seed)
    taken = clips.actions[is_known(clips.actions)]
    if not len(taken):
        raise ValueError("the clips know of no action")
    drawn = taken[rng.integers(len(taken), size=(num_dreams, num_frames))]
    new = rng.random((num_dreams, num_frames)) < 1 / MEAN_HOLD_STEPS
    new[:, 0] = True
    last_new = np.maximum.accumulate(np.where(new, np.arange(num_frames), 0), axis=1)
    return drawn[np.arange(num_dreams)[:, None], last_new]
