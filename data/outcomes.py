"""What the records say of reward and end, frame by frame.

Rewards and ends are rare in many games. With half of the clips chosen for them, each kind equally often, a head learns
from far fewer clips. Weights make up for the choice: the mean loss, and with it the probabilities, are those of all
clips.

Shapes: B clips, T frames, A action vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamrun.data.records import Record
from dreamrun.games.space import ActionSpace
from dreamrun.games.splitmix import splitmix64_hash


class Outcomes(NamedTuple):
    """The action taken at each frame of B clips, and what followed."""

    next_actions: Tensor  # float32 (B, T, A); next_actions[:, t] leads from frame t to the next one
    rewards: Tensor  # float32 (B, T); NaN where the record has no rewards
    ends: Tensor  # float32 (B, T): 1 where the episode ended, else 0; NaN where the record does not say it
    weights: Tensor  # float32 (B,) of the clips in the loss


def cut_outcomes(
    records: list[Record], starts: np.ndarray, clip_frames: int, space: ActionSpace, events: EventClips | None = None
) -> Outcomes:
    """The outcomes of a clip of each record, beginning at `starts`.

    A record that does not say whether its episode ended has unknown ends everywhere: its other frames alone would teach
    that no episode ever ends.

    Args:
        events: half of the clips were chosen from these; None: no clip was.
    """
    clips = [slice(start, start + clip_frames) for start in starts]
    pairs = list(zip(records, clips, strict=True))
    rewards = np.stack([_rewards(record)[clip] for record, clip in pairs])
    ends = np.stack([_ends(record)[clip] for record, clip in pairs])
    next_actions = space.vectors(np.stack([record.actions[clip] for record, clip in pairs]))
    weights = events.weights(event_kinds(rewards, ends)) if events else np.ones(len(records), np.float32)
    return Outcomes(*map(torch.from_numpy, (next_actions, rewards, ends, weights)))


NUM_KINDS = 3  # of events


def event_kinds(rewards: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The kind of clips (B, T): 1 with a positive reward, else 2 with a negative one, else 3 with an end, else 0."""
    rewards, ends = np.nan_to_num(rewards), np.nan_to_num(ends)
    has_kind = [(rewards > 0).any(1), (rewards < 0).any(1), (ends > 0).any(1)]
    return np.select(has_kind, range(1, NUM_KINDS + 1), default=0)


@dataclass(frozen=True)
class EventClips:
    """The clips of a split in which something happens, by its kind."""

    by_kind: tuple[np.ndarray, ...]  # of each kind that occurs: int64 (E, 2), record and start of each clip
    kinds: np.ndarray  # int64 (number of kinds that occur,), 1 to NUM_KINDS
    num_clips: int  # all clips of the split

    def sample(self, rng: np.random.Generator, max_clips: int) -> EventClips:
        """At most `max_clips` random clips of each kind."""
        by_kind = [clips[rng.permutation(len(clips))[:max_clips]] for clips in self.by_kind]
        return replace(self, by_kind=tuple(by_kind))

    def replace_half(
        self, record_ids: np.ndarray, starts: np.ndarray, seeds: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace each clip with probability 1/2: with one of each kind equally often. Its seed alone decides."""
        if not self.by_kind:
            return record_ids, starts
        draws = splitmix64_hash(seeds)
        is_replaced, draws = (draws & np.uint64(1)).astype(bool), draws >> np.uint64(1)
        numbers, draws = draws % np.uint64(len(self.by_kind)), draws // np.uint64(len(self.by_kind))
        record_ids, starts = record_ids.copy(), starts.copy()
        for number, clips in enumerate(self.by_kind):
            chosen = is_replaced & (numbers == number)
            record_ids[chosen], starts[chosen] = clips[draws[chosen] % np.uint64(len(clips))].T
        return record_ids, starts

    def weights(self, kinds: np.ndarray) -> np.ndarray:
        """How much more frequent clips of these kinds are in the split than after `replace_half`: float32 (B,).

        Of K kinds one with a share p of the clips has a share p / 2 + 1 / (2 K) afterwards.
        """
        if not self.by_kind:
            return np.ones(len(kinds), np.float32)
        weights = np.full(1 + NUM_KINDS, 2.0)
        for kind, clips in zip(self.kinds, self.by_kind, strict=True):
            share = len(clips) / self.num_clips
            weights[kind] = share / (share / 2 + 1 / (2 * len(self.by_kind)))
        return weights[kinds].astype(np.float32)


def find_event_clips(records: Iterable[Record], starts: Iterable[np.ndarray], clip_frames: int) -> EventClips:
    """The clips with events, among those of each record that begin at its `starts`."""
    found, found_kinds, num_clips = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)], 0
    for record_id, (record, record_starts) in enumerate(zip(records, starts, strict=True)):
        num_clips += len(record_starts)
        if not len(record_starts):
            continue
        frames = record_starts[:, None] + np.arange(clip_frames)
        found.append(np.stack((np.full(len(record_starts), record_id), record_starts), axis=1))
        found_kinds.append(event_kinds(_rewards(record)[frames], _ends(record)[frames]))
    clips, kinds = np.concatenate(found), np.concatenate(found_kinds)
    occurring = np.unique(kinds[kinds > 0])
    return EventClips(tuple(clips[kinds == kind] for kind in occurring), occurring, num_clips)


def _rewards(record: Record) -> np.ndarray:
    return np.full(len(record), np.nan, np.float32) if record.rewards is None else record.rewards


def _ends(record: Record) -> np.ndarray:
    ends = np.full(len(record), np.nan if record.terminal is None else 0, np.float32)
    if record.terminal:
        ends[-1] = 1
    return ends
