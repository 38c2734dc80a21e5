"""Groups of actions, and the model that predicts them from frames."""

from dataclasses import replace

import numpy as np
import pytest
from artificial import PROMPT, noise
from tiny import CONTROLS

from dreamrun.data.clips import draw_clips, draw_records
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.records import Record
from dreamrun.evaluation.sections.inverse_dynamics import ActionGroups, inverse_dynamics, train_inverse_dynamics
from dreamrun.games.procgen_actions import procgen_actions
from dreamrun.games.space import UNKNOWN_ACTION, ActionSpace


def test_ids_that_hold_the_same_effective_keys_form_a_group():
    space = procgen_actions("coinrun")
    groups = ActionGroups(space)
    assert groups.names == ["left", "left+jump", "noop", "jump", "right", "right+jump"]
    actions = np.array([space.index(name) for name in ("left+down", "left", "D", "noop")])
    left_down, left, d, noop = groups(actions)
    assert left_down == left != d == noop and groups(np.array([UNKNOWN_ACTION])) == -1
    without_keys = ActionSpace(names=("0", "1"), keys=((), ()), acting=(0, 1))
    assert ActionGroups(without_keys).names == ["0", "1"]


def test_groups_of_buttons_are_the_most_frequent_combinations():
    names = ["left+dx=-0.5"] * 4 + ["left+fire", "noop", "dy=1", "right+jump+dx=0.2"]
    vectors = np.stack([*map(CONTROLS.parse, names), CONTROLS.unknown()])
    records = [Record(np.zeros((len(vectors), 2, 2, 3), np.uint8), vectors)]
    groups = ActionGroups(CONTROLS, records)
    assert groups.names == ["left", "noop", "right+jump"]  # fire has no effect, and the mouse does not count
    assert groups(vectors).tolist() == [0] * 5 + [1, 1, 2, -1]
    assert groups(CONTROLS.parse("jump")) == -1
    axes = replace(CONTROLS, acting=(4, 5))
    assert ActionGroups(axes, records).names[0] == "dx=-1"


@pytest.fixture(scope="module")
def train_records(pong_set):
    return draw_records(ClipDataset(pong_set, "train", clip_frames=1), 24, 0)


def test_actions_are_predicted_from_real_play_and_not_from_noise(train_records, held_out):
    groups = ActionGroups(held_out.metadata.actions)
    clips = draw_clips(held_out, 3, 100, PROMPT + 1, seed=0)
    model, group_counts = train_inverse_dynamics(train_records, groups, 50, seed=0)

    def measure(rollouts):
        return inverse_dynamics(model, group_counts, clips, rollouts, PROMPT, groups)

    perfect = measure(clips.frames)
    assert perfect["real"] == perfect["dream"]
    assert perfect["real"]["accuracy"]["value"] > 0.8 > perfect["chance"]["value"]
    assert perfect["real"]["num_frames"] == int((clips.lengths - PROMPT).sum()) == np.sum(perfect["real"]["confusion"])
    for without_motion in (noise(clips.frames.shape), np.repeat(clips.frames[:, :1], 100, axis=1)):
        accuracy = measure(without_motion)["dream"]["accuracy"]["value"]
        assert accuracy < perfect["real"]["accuracy"]["value"] - 0.2


def test_training_is_reproducible(train_records, held_out):
    groups = ActionGroups(held_out.metadata.actions)
    first, second = (train_inverse_dynamics(train_records, groups, 3, seed=0)[0] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_training_needs_two_groups(train_records):
    one_action = ActionGroups(ActionSpace(names=("none",), keys=((),), acting=(0,)))
    with pytest.raises(ValueError, match=r"two kinds of actions \(1 found\)"):
        train_inverse_dynamics([replace(r, actions=np.zeros_like(r.actions)) for r in train_records], one_action, 3, 0)
