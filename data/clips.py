"""Clips of recorded play that rollouts start from and are compared with, drawn by seed.

Shapes: S clips, T frames, H x W x C pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamrun.data.batch import to_float
from dreamrun.data.dataset import ClipDataset, cut_clip
from dreamrun.data.index import held_out_split
from dreamrun.data.records import Record
from dreamrun.games.policies import MEAN_HOLD_STEPS
from dreamrun.games.space import ActionSpace, is_known


@dataclass(frozen=True)
class Clips:
    """Stretches of records, one per record. After a record's end frames are black and actions are unknown."""

    frames: np.ndarray  # uint8 (S, T, H, W, C)
    actions: np.ndarray  # recorded actions, (S, T) or (S, T, names); actions[:, t] leads into frame t
    lengths: np.ndarray  # int (S,), recorded frames in each clip
    space: ActionSpace
    fps: float  # frames per second of the game
    record_ids: np.ndarray  # int (S,); empty if the clips are from no data set
    starts: np.ndarray  # int (S,), index of each clip's first frame in its record

    @property
    def num_true_frames(self) -> int:
        """Number of frames that are recorded in every clip."""
        return int(self.lengths.min())

    def other_actions(self, num_prompt: int) -> np.ndarray:
        """Each clip's own actions in the prompt, then the previous clip's: shaped as `actions`.

        If the previous clip is too short, its actions after the prompt are repeated.
        """
        actions = self.actions.copy()
        for clip in range(len(actions)):
            other = self.actions[clip - 1, num_prompt : self.lengths[clip - 1]]
            actions[clip, num_prompt:] = other[np.arange(actions.shape[1] - num_prompt) % len(other)]
        return actions


def held_out_clips(
    dataset: ClipDataset, num_samples: int, num_frames: int, seed: int = 0, min_frames: int | None = None
) -> Clips:
    """The first `num_frames` frames of exactly `num_samples` records, drawn by `seed`.

    Args:
        min_frames: records of at least this many frames are drawn; None: num_frames.
    """
    min_frames = num_frames if min_frames is None else min(min_frames, num_frames)
    long_enough = np.flatnonzero(dataset.index.lengths >= min_frames)
    if num_samples < 1:
        raise ValueError(f"{num_samples} samples: at least 1 is needed")
    if len(long_enough) < num_samples:
        longest = max(dataset.index.lengths)
        raise ValueError(
            f"{num_samples} samples of {min_frames} frames were requested, but only {len(long_enough)} records of "
            f"{dataset.folder}/{dataset.split} are that long (the longest has {longest})"
        )
    record_ids = np.random.default_rng(seed).choice(long_enough, num_samples, replace=False)
    return cut_clips(dataset, record_ids, np.zeros(num_samples, np.int64), num_frames)


def load_prompts(
    data: str | Path, num_clips: int = 1, num_frames: int = 4, split: str | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Prompts for `Sampler.reset`: the first frames of records, drawn by `seed`.

    Args:
        data: the folder of a data set, or the name of shipped samples, such as "coinrun".
        split: of the data set; None: test, or val if there is no test split.

    Returns:
        Frames (B, T, C, H, W), float32 in [-1, 1], and the action vectors that led into them, (B, T, A).

    Raises:
        ValueError: there is no such data set, or too few records are long enough.
    """
    dataset = ClipDataset(Path(data), split or held_out_split(Path(data)), clip_frames=1)
    clips = held_out_clips(dataset, num_clips, num_frames, seed)
    return to_float(clips.frames), torch.from_numpy(clips.space.vectors(clips.actions))


def draw_clips(dataset: ClipDataset, num_clips: int, num_frames: int, min_frames: int, seed: int) -> Clips:
    """At most `num_clips` clips of at most `num_frames` frames, from random places in records drawn by `seed`.

    Args:
        min_frames: records of at least this many frames are drawn.
    """
    lengths = dataset.index.lengths
    long_enough = np.flatnonzero(lengths >= min_frames)
    if not len(long_enough):
        raise ValueError(
            f"no record of {dataset.folder}/{dataset.split} has {min_frames} frames: the longest has {max(lengths)}"
        )
    rng = np.random.default_rng(seed)
    record_ids = rng.permutation(long_enough)[:num_clips]
    starts = rng.integers(0, np.maximum(0, lengths[record_ids] - num_frames) + 1)
    return cut_clips(dataset, record_ids, starts, num_frames)


def cut_clips(dataset: ClipDataset, record_ids: np.ndarray, starts: np.ndarray, num_frames: int) -> Clips:
    """A clip of up to `num_frames` frames from each record, beginning at `starts`."""
    space, fps = dataset.metadata.actions, dataset.metadata.fps
    lengths = np.minimum(dataset.index.lengths[record_ids] - starts, num_frames).astype(int)
    frames = np.zeros((len(record_ids), num_frames, *dataset.metadata.frame_shape), np.uint8)
    actions = space.unknown(len(record_ids), num_frames)
    for row, record in enumerate(dataset.records(record_ids)):
        length = lengths[row]
        frames[row, :length], actions[row, :length] = cut_clip(record, starts[row], length, know_leading=True)
    return Clips(frames, actions, lengths, space, fps, record_ids, starts)


def draw_records(dataset: ClipDataset, num_records: int, seed: int) -> list[Record]:
    """At most `num_records` whole records, drawn by `seed`."""
    return list(dataset.records(np.random.default_rng(seed).permutation(len(dataset.index.lengths))[:num_records]))


def scripted_actions(clips: Clips, num_rollouts: int, num_frames: int, seed: int) -> np.ndarray:
    """Random recorded actions, drawn as often as they occur in the clips, each held for MEAN_HOLD_STEPS on average.

    They are (num_rollouts, num_frames) ids, or (num_rollouts, num_frames, names) vectors.
    """
    rng = np.random.default_rng(seed)
    taken = clips.actions[is_known(clips.actions)]
    if not len(taken):
        raise ValueError("no action of the clips is known")
    drawn = taken[rng.integers(len(taken), size=(num_rollouts, num_frames))]
    new = rng.random((num_rollouts, num_frames)) < 1 / MEAN_HOLD_STEPS
    new[:, 0] = True
    last_new = np.maximum.accumulate(np.where(new, np.arange(num_frames), 0), axis=1)
    return drawn[np.arange(num_rollouts)[:, None], last_new]


def prompt_clips(prompt: np.ndarray, num_clips: int, num_frames: int, space: ActionSpace, fps: float) -> Clips:
    """Clips that share one prompt, uint8 (P, H, W, C), and have no recorded frames after it. P may be 0.

    Actions are unknown in the prompt and noop after it.
    """
    if num_clips < 1:
        raise ValueError(f"{num_clips} samples: at least 1 is needed")
    num_prompt, *frame_shape = prompt.shape
    frames = np.zeros((num_clips, num_frames, *frame_shape), np.uint8)
    frames[:, :num_prompt] = prompt
    actions = space.unknown(num_clips, num_frames)
    actions[:, num_prompt:] = space.noop
    no_ids = np.zeros(0, np.int64)
    return Clips(frames, actions, np.full(num_clips, num_prompt), space, fps, no_ids, no_ids)


def choose_actions(choice: str, clips: Clips, num_prompt: int, seed: int) -> np.ndarray:
    """The clips' own actions in the prompt, then those that `choice` names: shaped as `clips.actions`.

    Args:
        choice: "gt" for the clips' own actions, "random" for random ones, or action names separated by commas, which
            are repeated: "right,right+jump".
    """
    actions = clips.actions.copy()
    num_clips, num_steps = actions[:, num_prompt:].shape[:2]
    if choice == "random":
        actions[:, num_prompt:] = clips.space.random(np.random.default_rng(seed), num_clips, num_steps)
    elif choice != "gt":
        named = np.stack([clips.space.parse(name) for name in choice.split(",")])
        actions[:, num_prompt:] = named[np.arange(num_steps) % len(named)]
    return actions
