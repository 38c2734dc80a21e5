"""The metrics have a truth of their own: artificial dreams whose figures are known beforehand."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import CONTROLS

from data.actions import UNKNOWN_ACTION, ActionSpace
from data.clips import Clips, draw_clips, draw_records, scripted_actions
from data.dataset import ClipDataset
from data.games.factory import make_environment
from data.games.procgen_actions import procgen_actions
from data.games.replay import replay_to
from data.records import Record
from evaluation.counterfactuals import (
    Branches,
    branch,
    controllability,
    controllability_by_state,
    held_actions,
    which_alike,
)
from evaluation.drift import RealPlay, drift
from evaluation.fidelity import cases, fidelity
from evaluation.inverse_dynamics import ActionGroups, inverse_dynamics, train_inverse_dynamics
from evaluation.statistics import estimate
from training.metrics import psnr_from_mse

PROMPT = 4
PONG_ACTIONS = 3


@pytest.fixture(scope="module")
def held_out(pong_set):
    return ClipDataset(pong_set, "test", clip_frames=1)


@pytest.fixture(scope="module")
def clips(held_out):
    """Three clips, of which one ends early."""
    clips = draw_clips(held_out, 3, PROMPT + 20, PROMPT + 1, seed=0)
    return replace(clips, lengths=np.array([PROMPT + 20, PROMPT + 12, PROMPT + 20]))


@pytest.fixture(scope="module")
def branches():
    return branch(make_environment("pong", 12, seed=3), PROMPT, 16, seed=0)


# Artificial dreams of the clips: uint8 (S, T, H, W, C), what follows the prompts.


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def following(clips):
    """Truth, its lengths, and the prompts' last frames."""
    return clips.frames[:, PROMPT:], clips.lengths - PROMPT, clips.frames[:, PROMPT - 1]


# Intervals.


def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        figure = estimate(rng.normal(3.0, 2.0, 40))
        hits += figure["low"] <= 3.0 <= figure["high"]
        assert figure["low"] < figure["value"] < figure["high"] and figure["n"] == 40
    assert 0.88 < hits / 200 < 0.99


def test_estimates_of_nothing_and_of_no_error():
    assert estimate(np.array([np.nan, np.nan])) is None
    assert estimate(np.zeros(5), transform=psnr_from_mse) == {"value": None, "low": None, "high": None, "n": 5}
    assert estimate(np.array([1.0, np.nan, 5.0]))["value"] == 3.0
    ratio = estimate(np.array([1.0, 6.0, 0.0]), counts=np.array([2.0, 8.0, 0.0]))
    assert ratio["value"] == 0.7 and ratio["n"] == 2


# Fidelity.


def test_a_perfect_dream_has_no_error_and_is_one_with_the_truth(clips):
    truth, lengths, last = following(clips)
    found = fidelity(truth, lengths, last, truth.copy(), None)
    assert all(e["value"] is None and e["low"] is None for e in found["dream"]["psnr"])  # infinite
    assert all(e["value"] == pytest.approx(1.0) for e in found["dream"]["ssim"])
    assert [e["n"] for e in found["dream"]["psnr"]] == [3] * 12 + [2] * 8
    assert set(found) == {"dream", "repeat_prompt"}


def test_a_frozen_dream_is_as_good_as_repeating_the_prompt(clips):
    truth, lengths, last = following(clips)
    frozen = np.repeat(last[:, None], truth.shape[1], axis=1)
    found = fidelity(truth, lengths, last, frozen, noise(truth.shape))
    assert found["dream"] == found["repeat_prompt"] != found["other_actions"]


def test_noise_has_the_error_that_theory_gives_it(clips):
    truth, lengths, last = following(clips)
    levels = np.arange(256.0)
    # For each true level, the mean square distance of all levels to it.
    expected = np.square(levels[:, None] - levels).mean(1)[truth[:, 0]].mean()
    found = fidelity(truth, lengths, last, noise(truth.shape), None)["dream"]
    assert found["psnr"][0]["value"] == pytest.approx(10 * np.log10(255**2 / expected), abs=0.1)
    assert found["ssim"][0]["value"] < 0.1


def test_cases_are_chosen_by_error_at_one_frame(clips):
    truth, lengths, _ = following(clips)
    dreams = truth.copy()
    dreams[0, 15] //= 2
    dreams[2, 15] += 1
    dreams[1] = 0  # has ended before
    found = cases(truth, dreams, lengths)
    assert (found["best"]["clip"], found["worst"]["clip"], found["best"]["frame"]) == (2, 0, 16)
    assert found["best"]["psnr"] > found["worst"]["psnr"]


# Counterfactuals.


def test_branches_are_what_the_game_does(branches):
    assert branches.futures.shape == (12, 3, 16, 64, 64, 3) and branches.prompt.shape == (12, PROMPT, 64, 64, 3)
    assert branches.lengths.max() == 16
    prompt, actions, numbers = branches.under_each()
    assert len(prompt) == len(actions) == len(numbers) == 36
    assert (actions[:, PROMPT:] == np.tile([0, 1, 2], 12)[:, None]).all()
    assert ((branches.prompt_actions >= UNKNOWN_ACTION) & (branches.prompt_actions < 3)).all()
    up, down = branches.futures[:, 1, 5], branches.futures[:, 2, 5]
    assert (up != down).any((1, 2, 3)).all()  # the paddle


def test_branches_are_reproducible_and_end_with_their_episode():
    environments = [make_environment("pong", 6, seed=3) for _ in range(2)]
    for environment in environments:
        environment.max_steps = 60  # so short that episodes end within the branches
    one, other = (branch(environment, PROMPT, 50, seed=1) for environment in environments)
    assert np.array_equal(one.futures, other.futures) and np.array_equal(one.lengths, other.lengths)
    assert one.lengths.min() < 50
    long_ago = controllability(one, one.futures)[-1]["controllability"]
    assert long_ago is None or long_ago["n"] < 6


def test_the_perfect_dream_obeys(branches):
    for row in controllability(branches, branches.futures):
        assert row["controllability"]["value"] == row["controllability"]["low"] == 1.0
        assert row["chance"]["value"] >= 1 / PONG_ACTIONS
        assert row["above_chance"]["value"] == pytest.approx(1 - row["chance"]["value"])
    assert [row["frame"] for row in controllability(branches, branches.futures)] == [1, 2, 4, 8, 16]


def distinct_everywhere(branches, horizon):
    """The moments whose futures all differ at a frame, and go on that long."""
    return [
        state
        for state, futures in enumerate(branches.futures[:, :, horizon - 1])
        if len(set(which_alike(futures))) == len(futures) and branches.lengths[state].min() >= horizon
    ]


def test_a_dream_under_wrong_actions_never_obeys(branches):
    wrong = np.roll(branches.futures, 1, axis=1)
    chosen = distinct_everywhere(branches, 8)
    assert len(chosen) >= 3
    obeyed, _ = controllability_by_state(branches, wrong, 8)
    assert (obeyed[chosen] == 0).all()


def test_whoever_is_blind_to_actions_obeys_by_chance_exactly(branches):
    # The same dream under all actions comes nearest to the same future under all.
    blind = np.repeat(branches.futures[:, :1], PONG_ACTIONS, axis=1)
    obeyed, chance = controllability_by_state(branches, blind, 4)
    assert np.array_equal(obeyed, chance, equal_nan=True) and np.isfinite(chance).any()


def test_a_tie_is_no_controllability(branches):
    grey = np.zeros_like(branches.futures)
    alike = replace(branches, futures=np.full_like(branches.futures, 10), lengths=np.full((12, 3), 16))
    assert np.isnan(controllability_by_state(alike, grey, 4)[0]).all()  # one future only: nothing to obey
    alike.futures[:, 0] = 20
    alike.futures[:, 1, :, 0] = 20  # and futures 1 and 2, as far from 15 as each other
    alike.futures[:, 2, :, 1] = 20
    obeyed, chance = controllability_by_state(alike, np.full_like(grey, 15), 4)
    assert (obeyed == 0).all() and (chance == 1 / 3).all()


def test_futures_that_do_not_differ_count_as_one():
    futures = np.zeros((1, 4, 1, 2, 2, 1), np.uint8)
    futures[0, 3] = 200  # three actions do the same
    branches = Branches(futures[:, 0], np.zeros((1, 1), int), np.arange(4), futures, np.ones((1, 4), int))
    dreams = futures.copy()
    dreams[0, 0] = 200  # one of the three obeys not
    obeyed, chance = controllability_by_state(branches, dreams, 1)
    assert obeyed.tolist() == [pytest.approx((2 / 3 + 1) / 2)] and chance.tolist() == [0.5]


def test_noise_obeys_by_chance(branches):
    few = replace(branches, futures=branches.futures[:, :, 7:8], lengths=np.ones((12, 3), int))
    many = [controllability_by_state(few, noise(few.futures.shape, seed), 1) for seed in range(40)]
    obeyed, chance = np.array(many).swapaxes(0, 1)
    assert np.nanmean(obeyed - chance) == pytest.approx(0, abs=0.04)
    assert np.nanstd(obeyed - chance) > 0.1  # it is not blind, it guesses


def test_held_actions_follow_a_rule():
    space = procgen_actions("coinrun")
    names = [space.names[action] for action in held_actions(space)]
    assert names == ["noop", "left", "jump", "right", "left+jump", "right+jump"]
    assert len(held_actions(procgen_actions("starpilot"))) == 6
    # Of buttons and axes: nothing, each alone (fire does nothing), and both ways.
    held = held_actions(CONTROLS)
    assert [CONTROLS.format(vector) for vector in held] == ["noop", "left", "right", "jump", "dx=1", "dx=-1"]
    assert all(np.array_equal(CONTROLS.parse(CONTROLS.format(vector)), vector) for vector in held)


# Keys read off the picture.


def test_groups_follow_from_keys():
    groups = ActionGroups(procgen_actions("coinrun"))
    assert groups.names == ["left", "left+jump", "noop", "jump", "right", "right+jump"]
    space = procgen_actions("coinrun")
    named = np.array([space.index(name) for name in ("left+down", "left", "D", "noop")])
    left_down, left, d, stay = groups(named)
    assert left_down == left != d == stay and groups(np.array([UNKNOWN_ACTION])) == -1
    unknown = ActionSpace(names=("0", "1"), keys=((), ()), acting=(0, 1))
    assert ActionGroups(unknown).names == ["0", "1"]


def test_groups_of_buttons_are_those_held_most_often():
    names = ["left+dx=-0.5"] * 4 + ["left+fire", "noop", "dy=1", "right+jump+dx=0.2"]
    vectors = np.stack([*map(CONTROLS.parse, names), CONTROLS.unknown()])
    records = [Record(np.zeros((len(vectors), 2, 2, 3), np.uint8), vectors)]
    groups = ActionGroups(CONTROLS, records)
    assert groups.names == ["left", "noop", "right+jump"]  # fire does nothing, and the mouse does not count
    assert groups(vectors).tolist() == [0] * 5 + [1, 1, 2, -1]
    assert groups(CONTROLS.parse("jump")) == -1
    axes = replace(CONTROLS, acting=(4, 5))
    assert ActionGroups(axes, records).names[0] == "dx=-1"


def test_keys_are_read_off_real_play_and_not_off_noise(pong_set, held_out):
    train, groups = ClipDataset(pong_set, "train", clip_frames=1), ActionGroups(held_out.metadata.actions)
    clips = draw_clips(held_out, 3, 100, PROMPT + 1, seed=0)
    reader, taken = train_inverse_dynamics(draw_records(train, 24, 0), groups, 50, seed=0)

    def read(dreams):
        return inverse_dynamics(reader, taken, clips.frames, dreams, clips.actions, clips.lengths, PROMPT, groups)

    perfect = read(clips.frames)
    assert perfect["real"] == perfect["dream"]
    assert perfect["real"]["accuracy"]["value"] > 0.8 > perfect["chance"]["value"]
    assert perfect["real"]["num_frames"] == int((clips.lengths - PROMPT).sum()) == np.sum(perfect["real"]["confusion"])
    for blind in (noise(clips.frames.shape), np.repeat(clips.frames[:, :1], 100, axis=1)):
        assert read(blind)["dream"]["accuracy"]["value"] < perfect["real"]["accuracy"]["value"] - 0.2
    again, _ = train_inverse_dynamics(draw_records(train, 24, 0), groups, 3, seed=0)
    same, _ = train_inverse_dynamics(draw_records(train, 24, 0), groups, 3, seed=0)
    assert all((a == b).all() for a, b in zip(again.parameters(), same.parameters(), strict=True))


# Drift.


@pytest.fixture(scope="module")
def real_play(pong_set, held_out):
    train = ClipDataset(pong_set, "train", clip_frames=1)
    bank = np.concatenate([record.frames for record in draw_records(train, 24, 0)])[::2]
    return RealPlay(bank, [record.frames for record in held_out.records(range(3))], held_out.metadata.fps)


def real_future(record, metadata, actions):
    """The game itself, from a record's start under other actions."""
    environment, _ = replay_to(record, metadata)
    return np.stack([environment.step(np.array([action]))[0][0] for action in actions])


def test_a_perfect_long_dream_does_not_collapse(real_play, held_out):
    clips = draw_clips(held_out, 3, PROMPT + 20, PROMPT + 1, seed=0)
    actions = scripted_actions(clips, 3, 240, seed=0)
    records = held_out.records(range(3))
    dreams = [real_future(record, held_out.metadata, row) for record, row in zip(records, actions, strict=True)]
    found = drift(np.stack([real_play.statistics(dreamt)[1] for dreamt in dreams]), real_play)
    assert found["collapsed"]["value"] == 0.0 and found["collapsed"]["n"] == 3
    assert len(found["collapsed_by_window"]) == 240 // 30
    assert found["real"]["collapsed"] < 0.03  # what the rule makes of real play itself
    for name in ("sharpness", "brightness", "motion"):
        assert found["statistics"][name][-1]["value"] == pytest.approx(found["real"]["median"][name], rel=0.5)


@pytest.mark.parametrize("kind", ["frozen", "flat", "blown out"])
def test_dreams_that_collapse_are_told_apart(real_play, clips, kind):
    rng = np.random.default_rng(0)
    frames = {
        "frozen": np.repeat(clips.frames[0, :1], 90, axis=0),
        "flat": np.broadcast_to(rng.integers(0, 256, (90, 1, 1, 1)), (90, 64, 64, 3)).astype(np.uint8),
        "blown out": noise((90, 64, 64, 3)),
    }[kind]
    found = drift(real_play.statistics(frames)[1][None], real_play)
    assert found["collapsed"]["value"] == found["collapsed_how"][kind]["value"] == 1.0
    assert kind == "flat" or found["collapsed_how"]["flat"]["value"] == 0.0
    assert kind == "frozen" or found["collapsed_how"]["frozen"]["value"] == 0.0


def test_a_script_holds_actions_and_takes_them_as_real_play_does(clips):
    script = scripted_actions(clips, 20, 500, seed=0)
    taken = clips.actions[clips.actions != UNKNOWN_ACTION]
    shares = np.bincount(taken, minlength=3) / len(taken)
    assert np.bincount(script.ravel(), minlength=3) / script.size == pytest.approx(shares, abs=0.08)
    # Every sixth frame an action is drawn anew, at times the same one.
    assert (np.diff(script, axis=1) != 0).mean() == pytest.approx((1 - np.square(shares).sum()) / 6, rel=0.2)
    assert np.array_equal(script, scripted_actions(clips, 20, 500, seed=0))


def test_vectors_are_drawn_whole_and_only_where_they_are_known():
    vectors = CONTROLS.unknown(2, 6)
    vectors[0, 3:5] = CONTROLS.parse("left+jump"), CONTROLS.parse("dx=0.5")
    frames = np.zeros((2, 6, 2, 2, 3), np.uint8)
    few = Clips(frames, vectors, np.array([5, 6]), CONTROLS, fps=15.0)
    script = scripted_actions(few, 3, 40, seed=0)
    assert {CONTROLS.format(vector) for vector in script.reshape(-1, 6)} == {"left+jump", "dx=0.5"}
    other = few.other_actions(3)
    assert np.array_equal(other[1, 3:], vectors[0, [3, 4, 3]]) and np.isnan(other[0]).all()
    with pytest.raises(ValueError, match="no action of the clips is known"):
        scripted_actions(replace(few, actions=CONTROLS.unknown(2, 6)), 3, 40, seed=0)


def test_clips_are_drawn_by_seed_and_end_with_their_record(held_out):
    one, other = (draw_clips(held_out, 3, 300, 5, seed=0) for _ in range(2))
    assert np.array_equal(one.frames, other.frames) and np.array_equal(one.starts, other.starts)
    for row, record in enumerate(held_out.records(one.record_ids)):
        assert one.lengths[row] == len(record)
        assert np.array_equal(one.frames[row, : len(record)], record.frames)
        assert not one.frames[row, len(record) :].any() and (one.actions[row, len(record) :] == UNKNOWN_ACTION).all()
    assert (one.other_actions(4)[:, 4:] != UNKNOWN_ACTION).all()
    with pytest.raises(ValueError, match=r"no record of .* has 1000 frames: the longest has 1"):
        draw_clips(held_out, 3, 300, 1000, seed=0)
