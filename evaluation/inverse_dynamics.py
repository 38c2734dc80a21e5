"""Can the keys be read off the picture? A small network, which has seen real play only, names the keys held.

On real held-out video it is right as often as the game allows (in the air, a jump does nothing). As often as it is
right on the dream, the dream shows its actions as the game does.

Shapes: S clips, T frames, C channels, H x W pixels, G groups of actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.actions import ActionSpace, is_known
from data.pixels import to_float
from data.records import Record
from evaluation.statistics import estimate

CELL = 4  # pixels on a side of what it sees as one
SHIFTS = [(0, d) for d in range(-4, 5)] + [(d, 0) for d in range(-4, 5) if d]  # rows and columns
STACK_FRAMES = 4  # that it sees: three before the action has acted, and the one after
MOST_GROUPS = 8  # of buttons and axes
LEAST_PUSH = 0.1  # of an axis, that counts
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


class ActionGroups:
    """Actions by what they do, from what was taken in some records.

    Ids that hold the same keys, of the keys that ever act, are one group. Vectors that hold the same buttons are, or
    where no button acts, those that push the axes the same way; of these the groups that were taken most often.
    """

    def __init__(self, space: ActionSpace, records: Sequence[Record] = ()):
        self._space = space
        if not space.discrete:
            taken = np.concatenate([record.actions for record in records])
            held, counts = np.unique(self._held(taken[is_known(taken)]), axis=0, return_counts=True)
            self._groups = held[np.argsort(-counts, kind="stable")][:MOST_GROUPS]
            self.names = [space.format(group) for group in self._groups]
        elif not space.all_keys:  # nothing is known of them
            self.names, self._group_of = list(space.names), np.arange(len(space))
        else:
            held = [frozenset(keys) & set(space.all_keys) for keys in space.keys]
            # Keys that never act together may still be held together: a group of its own.
            first: dict[frozenset[str], int] = {}
            for action in (*space.acting, *range(len(held))):
                first.setdefault(held[action], action)
            self.names = [space.names[action] for action in first.values()]
            self._group_of = np.array([list(first).index(group) for group in held])

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Recorded actions (...) -> the group of each, int (...); -1 where none is known, or it is of no group."""
        if self._space.discrete:
            return np.where(is_known(actions), self._group_of[actions], -1)
        alike = (self._held(actions)[..., None, :] == self._groups).all(-1)
        return np.where(is_known(actions) & alike.any(-1), alike.argmax(-1), -1)

    def _held(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (..., names) -> 1 for what is held or pushed up, -1 for what is pushed down, else 0."""
        kinds, acting = np.array(self._space.kinds), np.isin(np.arange(len(self._space.names)), self._space.acting)
        counted = acting & (kinds == "button") if (acting & (kinds == "button")).any() else acting
        return np.where(counted & (np.abs(vectors) > LEAST_PUSH), np.sign(vectors), 0).astype(np.int8)


class InverseDynamicsModel(nn.Module):
    """The last frames -> which group of keys led into the newest.

    What it sees first is how well each frame fits the one before, shifted by some pixels (a cost volume, as in
    arXiv 1709.02371): motion, which a network so small would need long to learn to see.
    """

    def __init__(self, num_channels: int, num_groups: int, width: int = 64):
        super().__init__()
        num_inputs = (STACK_FRAMES - 1) * len(SHIFTS) + num_channels
        self.layers = nn.Sequential(
            nn.Conv2d(num_inputs, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.last = nn.Linear(2 * width, num_groups)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, STACK_FRAMES, C, H, W) in [-1, 1] -> (B, G)."""
        grey = frames.mean(2)
        before, after = grey[:, :-1], grey[:, 1:]
        misfits = torch.cat([(after - before.roll(shift, (2, 3))).abs() for shift in SHIFTS], dim=1)
        cells = F.avg_pool2d(torch.cat((CELL * misfits, frames[:, -1]), dim=1), CELL)
        features = self.layers(cells)
        return self.last(torch.cat((features.mean((2, 3)), features.amax((2, 3))), dim=1))


def train_inverse_dynamics(
    records: list[Record], groups: ActionGroups, num_steps: int, seed: int
) -> tuple[InverseDynamicsModel, np.ndarray]:
    """On the CPU, in seconds to a minute, the same for the same records and seed.

    Returns:
        The network, and how often each group was held in the records, (G,).

    Raises:
        ValueError: fewer than two groups to tell apart, or no record long enough.
    """
    labels = [groups(record.actions) for record in records]  # labels[r][t] leads from frame t to t + 1
    ends = [(r, t) for r, record in enumerate(records) for t in range(STACK_FRAMES - 1, len(record))]
    places = [(r, t) for r, t in ends if labels[r][t - 1] >= 0]
    if len(groups.names) < 2 or not places:
        raise ValueError("nothing to train on: it takes two kinds of keys, and records of four frames or more")
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = InverseDynamicsModel(records[0].frames.shape[-1], len(groups.names))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    for _ in range(num_steps):
        drawn = [places[i] for i in rng.integers(len(places), size=BATCH_SIZE)]
        stacks = np.stack([records[r].frames[t - STACK_FRAMES + 1 : t + 1] for r, t in drawn])
        target = torch.tensor([int(labels[r][t - 1]) for r, t in drawn])
        loss = F.cross_entropy(reader(to_float(stacks)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    taken = np.concatenate(labels)
    return reader.eval(), np.bincount(taken[taken >= 0], minlength=len(groups.names))


@torch.inference_mode()
def confusions(
    reader: InverseDynamicsModel,
    frames: np.ndarray,
    actions: np.ndarray,
    lengths: np.ndarray,
    first: int,
    groups: ActionGroups,
) -> np.ndarray:
    """int (S, G, G), by clip: how often keys of the first group were held and those of the second were named.

    Args:
        frames: uint8 (S, T, H, W, C), real or dreamt.
        actions: recorded ones, (S, T) or (S, T, names), each leading into the frame beside it.
        lengths: (S,) frames of each clip that count.
        first: the first frame whose action is to be named.
    """
    held, num_groups = groups(actions), len(groups.names)
    counts = np.zeros((len(frames), num_groups, num_groups), int)
    for clip, length in enumerate(lengths):
        ends = [t for t in range(max(first, STACK_FRAMES - 1), length) if held[clip, t] >= 0]
        if not ends:
            continue
        stacks = np.stack([frames[clip, t - STACK_FRAMES + 1 : t + 1] for t in ends])
        named = reader(to_float(stacks)).argmax(1).numpy()
        np.add.at(counts[clip], (held[clip, ends], named), 1)
    return counts


def inverse_dynamics(
    reader: InverseDynamicsModel,
    taken: np.ndarray,
    real: np.ndarray,
    dreams: np.ndarray,
    actions: np.ndarray,
    lengths: np.ndarray,
    num_prompt: int,
    groups: ActionGroups,
) -> dict[str, Any]:
    """The reader's accuracy on real video and on the dream under the same actions, frame for frame.

    Args:
        taken: (G,) how often each group was held where the reader was trained.
        real, dreams: uint8 (S, T, H, W, C), the prompt included.

    Returns:
        For each of the two: accuracy (intervals over clips), confusion matrix, number of frames. And chance: the share
        of the group that was held most in training.
    """
    result: dict[str, Any] = {"groups": groups.names}
    for name, frames in (("real", real), ("dream", dreams)):
        counts = confusions(reader, frames, actions, lengths, num_prompt, groups)
        held = counts.sum((1, 2))
        result[name] = {
            "accuracy": estimate(counts.trace(axis1=1, axis2=2), held),
            "num_frames": int(held.sum()),
            "confusion": counts.sum(0).tolist(),
        }
    result["chance"] = estimate(counts[:, int(taken.argmax())].sum(-1), held)
    result["majority"] = groups.names[int(taken.argmax())]
    return result
