"""Inverse dynamics: a small network, trained on real play only, predicts the action from the frames.

Its accuracy on real held-out video is the most that the game allows (in the air, a jump key does nothing). The nearer
its accuracy on rollouts comes to that, the better the rollouts show their actions.

Shapes: S clips, T frames, H x W pixels, C channels, G action groups.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrun.data.batch import to_float
from dreamrun.data.clips import Clips
from dreamrun.data.records import Record
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.section import Block, Section, Table, Text, format_percent
from dreamrun.evaluation.statistics import estimate
from dreamrun.games.space import ActionSpace, is_known

WORDS = (
    "A small network is trained on real play only. It predicts the held keys from the last four frames, on real "
    "held-out video and on rollouts under the same actions. Some actions have no visible effect (a jump in the air), "
    "so the accuracy on real video is the most that a rollout can be expected to reach. If several buttons can be "
    "held, the network predicts the combination, among the most frequent ones, and ignores the mouse. If there are "
    "only axes, it predicts their directions."
)
CELL_SIZE = 4  # pixels; the cost volume and the newest frame are averaged over cells of this size
SHIFTS = [(0, d) for d in range(-4, 5)] + [(d, 0) for d in range(-4, 5) if d]  # (rows, columns) in pixels
STACK_FRAMES = 4  # input frames. Only the last one shows the action's effect.
MAX_GROUPS = 8  # groups of button and axis combinations
AXIS_THRESHOLD = 0.1  # an axis counts as pushed beyond this value
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


def measure(context: EvaluationContext) -> dict[str, Any]:
    """Train the inverse dynamics model and apply it to the clips and to their rollouts."""
    context.require_actions()
    clips, records, num_prompt = context.clips, context.train_records, context.config.num_prompt_frames
    groups = ActionGroups(context.space, records)
    num_steps = context.sizes["inverse_dynamics_steps"]
    model, group_counts = train_inverse_dynamics(records, groups, num_steps, context.config.seed)
    rollouts = np.concatenate((clips.frames[:, :num_prompt], context.rollouts), axis=1)
    return inverse_dynamics(model, group_counts, clips, rollouts, num_prompt, groups)


class ActionGroups:
    """Groups of recorded actions that do the same.

    Discrete space: ids that hold the same keys form a group; keys without any effect are ignored. Buttons and axes:
    vectors that hold the same acting buttons form a group, or, without acting buttons, vectors that push the axes in
    the same directions. Of these only the MAX_GROUPS most frequent in `records` are used.
    """

    def __init__(self, space: ActionSpace, records: Sequence[Record] = ()):
        self._space = space
        if not space.discrete:
            actions = np.concatenate([record.actions for record in records])
            held, counts = np.unique(self._held(actions[is_known(actions)]), axis=0, return_counts=True)
            self._groups = held[np.argsort(-counts, kind="stable")][:MAX_GROUPS]
            self.names = [space.format(group) for group in self._groups]
        elif not space.all_keys:  # without keys, every id is a group
            self.names, self._group_of = list(space.names), np.arange(len(space))
        else:
            held = [frozenset(keys) & set(space.all_keys) for keys in space.keys]
            # Acting ids come first, so that groups get their names. Other ids form more groups, if they hold keys
            # together that no acting id holds together.
            first: dict[frozenset[str], int] = {}
            for action in (*space.acting, *range(len(held))):
                first.setdefault(held[action], action)
            self.names = [space.names[action] for action in first.values()]
            self._group_of = np.array([list(first).index(keys) for keys in held])

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Recorded actions (...) -> group numbers, int (...); -1 if the action is unknown or in no group."""
        if self._space.discrete:
            return np.where(is_known(actions), self._group_of[actions], -1)
        matches = (self._held(actions)[..., None, :] == self._groups).all(-1)
        return np.where(is_known(actions) & matches.any(-1), matches.argmax(-1), -1)

    def _held(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (..., names) -> int8: 1 if held or pushed up, -1 if pushed down, else 0; buttons before axes."""
        is_acting = np.isin(np.arange(len(self._space.names)), self._space.acting)
        is_acting_button = is_acting & (np.array(self._space.kinds) == "button")
        counted = is_acting_button if is_acting_button.any() else is_acting
        return np.where(counted & (np.abs(vectors) > AXIS_THRESHOLD), np.sign(vectors), 0).astype(np.int8)


class InverseDynamicsModel(nn.Module):
    """Predicts the action group that led into the newest of STACK_FRAMES frames.

    The first features are a cost volume (as in arXiv 1709.02371): the difference between each frame and the shifted
    frame before it. It shows motion, which so small a network would learn slowly from raw frames.
    """

    def __init__(self, num_channels: int, num_groups: int):
        super().__init__()
        width, num_inputs = 64, (STACK_FRAMES - 1) * len(SHIFTS) + num_channels
        self.layers = nn.Sequential(
            nn.Conv2d(num_inputs, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, num_groups)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, STACK_FRAMES, C, H, W) in [-1, 1] -> logits (B, G)."""
        grey = frames.mean(2)
        previous, current = grey[:, :-1], grey[:, 1:]
        cost_volume = torch.cat([(current - previous.roll(shift, (2, 3))).abs() for shift in SHIFTS], dim=1)
        cells = F.avg_pool2d(torch.cat((CELL_SIZE * cost_volume, frames[:, -1]), dim=1), CELL_SIZE)
        features = self.layers(cells)
        return self.head(torch.cat((features.mean((2, 3)), features.amax((2, 3))), dim=1))


def train_inverse_dynamics(
    records: list[Record], groups: ActionGroups, num_steps: int, seed: int
) -> tuple[InverseDynamicsModel, np.ndarray]:
    """Train on the CPU, within a minute: the model, and the number of frames of each group in the records, (G,)."""
    labels = [groups(record.actions) for record in records]  # labels[r][t] leads from frame t to t + 1
    # (record, frame): the newest frame of each training example.
    examples = [
        (r, t)
        for r, record in enumerate(records)
        for t in range(STACK_FRAMES - 1, len(record))
        if labels[r][t - 1] >= 0
    ]
    if len(groups.names) < 2 or not examples:
        raise ValueError(
            f"inverse dynamics needs two kinds of actions ({len(groups.names)} found) and records of "
            f"{STACK_FRAMES} frames or more with known actions"
        )
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InverseDynamicsModel(records[0].frames.shape[-1], len(groups.names))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    for _ in range(num_steps):
        batch = [examples[i] for i in rng.integers(len(examples), size=BATCH_SIZE)]
        stacks = np.stack([_stack(records[r].frames, t) for r, t in batch])
        target = torch.tensor([int(labels[r][t - 1]) for r, t in batch])
        loss = F.cross_entropy(model(to_float(stacks)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    all_labels = np.concatenate(labels)
    return model.eval(), np.bincount(all_labels[all_labels >= 0], minlength=len(groups.names))


def _stack(frames: np.ndarray, newest: int) -> np.ndarray:
    """The STACK_FRAMES frames up to frame `newest`."""
    return frames[newest - STACK_FRAMES + 1 : newest + 1]


@torch.inference_mode()
def confusion_matrices(
    model: InverseDynamicsModel, frames: np.ndarray, clips: Clips, first_frame: int, groups: ActionGroups
) -> np.ndarray:
    """int (S, G, G): for each clip, how many frames have the first group as true and the second as predicted action.

    The frames, uint8 (S, T, H, W, C), are those of the clips, or generated under the same actions.
    """
    true_groups, num_groups = groups(clips.actions), len(groups.names)
    counts = np.zeros((len(frames), num_groups, num_groups), int)
    for clip, length in enumerate(clips.lengths):
        newest = [t for t in range(max(first_frame, STACK_FRAMES - 1), length) if true_groups[clip, t] >= 0]
        if not newest:
            continue
        stacks = np.stack([_stack(frames[clip], t) for t in newest])
        predicted = model(to_float(stacks)).argmax(1).numpy()
        np.add.at(counts[clip], (true_groups[clip, newest], predicted), 1)
    return counts


def inverse_dynamics(
    model: InverseDynamicsModel,
    group_counts: np.ndarray,
    clips: Clips,
    rollouts: np.ndarray,
    num_prompt: int,
    groups: ActionGroups,
) -> dict[str, Any]:
    """Accuracy of the inverse dynamics model on real video and on rollouts (S, T, H, W, C) under the same actions.

    `chance` is the accuracy of always predicting `majority`, the most frequent group in training.
    """
    majority = int(group_counts.argmax())
    result: dict[str, Any] = {"groups": groups.names}
    for name, frames in (("real", clips.frames), ("dream", rollouts)):
        counts = confusion_matrices(model, frames, clips, num_prompt, groups)
        num_frames = counts.sum((1, 2))
        result[name] = {
            "accuracy": estimate(counts.trace(axis1=1, axis2=2), num_frames),
            "num_frames": int(num_frames.sum()),
            "confusion": counts.sum(0).tolist(),
        }
    result["chance"] = estimate(counts[:, majority].sum(-1), num_frames)
    result["majority"] = groups.names[majority]
    return result


def blocks(report: dict[str, Any]) -> Iterator[Block]:
    section = report["inverse_dynamics"]
    yield Text(WORDS)
    real, rollouts = section["real"], section["dream"]
    accuracies = [format_percent(value) for value in (real["accuracy"], rollouts["accuracy"], section["chance"])]
    head = ["accuracy on real video", "accuracy on rollouts", f"always {section['majority']}", "frames", "n clips"]
    yield Table(head, [[*accuracies, str(real["num_frames"]), str(real["accuracy"]["n"])]])
    for title, counts in (("real video", real["confusion"]), ("rollouts", rollouts["confusion"])):
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        rows = [
            [group, *(f"{share:.0%}" for share in row)] for group, row in zip(section["groups"], shares, strict=True)
        ]
        yield Table([f"{title}: true \\ predicted", *section["groups"]], rows, shares)


def headlines(report: dict[str, Any]) -> Iterator[list[str]]:
    section = report["inverse_dynamics"]
    accuracies = section["real"]["accuracy"], section["dream"]["accuracy"], section["chance"]
    real, rollouts, chance = (format_percent(accuracy) for accuracy in accuracies)
    yield ["Inverse dynamics accuracy", rollouts, f"real video: {real}; always the same: {chance}"]


INVERSE_DYNAMICS = Section(
    "inverse_dynamics", measure, "Inverse dynamics", blocks, headlines, sizes={"inverse_dynamics_steps": (800, 150)}
)
