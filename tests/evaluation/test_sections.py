"""The measures of the report's sections, on artificial rollouts whose figures are known in advance."""

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import CONTROLS, SMALLEST, random_model

from dreamrun.data.clips import draw_clips, draw_records, scripted_actions
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.recorded_game import replay_to
from dreamrun.data.records import Record
from dreamrun.editing.measures import nearest_known, ordinary_range
from dreamrun.evaluation.counterfactuals import Counterfactuals, collect_counterfactuals, identical_groups
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.section import Table
from dreamrun.evaluation.sections import infilling
from dreamrun.evaluation.sections.controllability import controllability, controllability_by_state
from dreamrun.evaluation.sections.drift import DriftReference, drift
from dreamrun.evaluation.sections.fidelity import curves, example_clips
from dreamrun.evaluation.sections.fidelity import measure as measure_fidelity
from dreamrun.evaluation.sections.infilling import measure, patterns
from dreamrun.evaluation.sections.inverse_dynamics import ActionGroups, inverse_dynamics, train_inverse_dynamics
from dreamrun.evaluation.sections.key_objects import (
    FRAMES,
    KEY_OBJECTS,
    clips_with_object,
    compare_objects,
    find_objects,
    is_alive,
)
from dreamrun.evaluation.sections.rewards_and_ends import OUTCOMES, compare_with_truth
from dreamrun.games.factory import make_environment
from dreamrun.games.procgen_actions import procgen_actions
from dreamrun.games.space import UNKNOWN_ACTION, ActionSpace
from dreamrun.model import ModelConfig
from dreamrun.model.options import ResolvedSettings

PROMPT = 4  # prompt frames of all clips and counterfactuals


def noise(shape, seed=0):
    """Frames of uniform random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def held_out(pong_set):
    return ClipDataset(pong_set, "test", clip_frames=1)


@pytest.fixture(scope="module")
def clips(held_out):
    """Three clips, one of which ends early."""
    clips = draw_clips(held_out, 3, PROMPT + 20, PROMPT + 1, seed=0)
    return replace(clips, lengths=np.array([PROMPT + 20, PROMPT + 12, PROMPT + 20]))


# PSNR and SSIM


def after_prompt(clips):
    """The real frames after the prompts, and their lengths."""
    return clips.frames[:, PROMPT:], clips.lengths - PROMPT


def test_a_perfect_rollout_has_no_error(clips):
    truth, lengths = after_prompt(clips)
    result = curves(truth, truth.copy(), lengths)
    assert all(e["value"] is None and e["low"] is None for e in result["psnr"])  # infinite
    assert all(e["value"] == pytest.approx(1.0) for e in result["ssim"])
    assert [e["n"] for e in result["psnr"]] == [3] * 12 + [2] * 8


def test_a_frozen_rollout_equals_the_baseline_that_repeats_the_prompt(clips):
    truth, lengths = after_prompt(clips)
    context = SimpleNamespace(
        clips=clips, truth=truth, truth_lengths=lengths, space=clips.space, config=EvaluateConfig(checkpoint="x"),
        rollouts=np.repeat(clips.frames[:, PROMPT - 1 : PROMPT], truth.shape[1], axis=1),
        continue_clips=lambda name, actions: noise(truth.shape),
    )  # fmt: skip
    result = measure_fidelity(context)
    assert result["dream"] == result["repeat_prompt"] != result["other_actions"]
    context.clips, context.truth = (replace(clips, frames=clips.frames[:1]), truth[:1])
    context.truth_lengths, context.rollouts = lengths[:1], context.rollouts[:1]
    assert set(measure_fidelity(context)) == {"dream", "repeat_prompt", "cases"}  # there is no other clip


def test_noise_has_the_error_that_theory_predicts(clips):
    truth, lengths = after_prompt(clips)
    levels = np.arange(256.0)
    # For each true level, the mean squared distance of all levels to it.
    expected = np.square(levels[:, None] - levels).mean(1)[truth[:, 0]].mean()
    result = curves(truth, noise(truth.shape), lengths)
    assert result["psnr"][0]["value"] == pytest.approx(10 * np.log10(255**2 / expected), abs=0.1)
    assert result["ssim"][0]["value"] < 0.1


def test_example_clips_are_chosen_by_the_error_of_one_frame(clips):
    truth, lengths = after_prompt(clips)
    rollouts = truth.copy()
    rollouts[0, 15] //= 2
    rollouts[2, 15] += 1
    rollouts[1] = 0  # this clip has ended before
    examples = example_clips(truth, rollouts, lengths)
    assert (examples["best"]["clip"], examples["worst"]["clip"], examples["best"]["frame"]) == (2, 0, 16)
    assert examples["best"]["psnr"] > examples["worst"]["psnr"]


# Controllability


PONG_ACTIONS = 3


@pytest.fixture(scope="module")
def counterfactuals():
    return collect_counterfactuals(make_environment("pong", 12, seed=3), PROMPT, 16, seed=0)


def test_futures_are_what_the_game_does(counterfactuals):
    assert counterfactuals.futures.shape == (12, 3, 16, 64, 64, 3)
    assert counterfactuals.prompt.shape == (12, PROMPT, 64, 64, 3)
    assert counterfactuals.lengths.max() == 16
    assert ((counterfactuals.prompt_actions >= UNKNOWN_ACTION) & (counterfactuals.prompt_actions < 3)).all()
    up, down = counterfactuals.futures[:, 1, 5], counterfactuals.futures[:, 2, 5]
    assert (up != down).any((1, 2, 3)).all()  # the paddle


def test_rollouts_of_a_state_share_prompt_and_id_and_differ_in_the_action(counterfactuals):
    prompt, actions, rollout_ids = counterfactuals.rollout_inputs()
    assert len(prompt) == len(actions) == len(rollout_ids) == 36
    assert (actions[:, PROMPT:] == np.tile([0, 1, 2], 12)[:, None]).all()
    assert np.array_equal(actions[:, :PROMPT], counterfactuals.prompt_actions.repeat(3, axis=0))
    assert np.array_equal(rollout_ids, np.arange(12).repeat(3))
    assert np.array_equal(prompt[4], counterfactuals.prompt[1])


def test_the_first_states_are_those_of_a_smaller_collection(counterfactuals):
    few = counterfactuals.first(5, 7)
    assert np.array_equal(few.futures, counterfactuals.futures[:5, :, :7])
    assert np.array_equal(few.prompt, counterfactuals.prompt[:5]) and len(few.prompt_actions) == 5
    assert few.lengths.shape == (5, 3) and few.lengths.max() == 7


def test_counterfactuals_are_reproducible_and_end_with_their_episode():
    environments = [make_environment("pong", 6, seed=3) for _ in range(2)]
    for environment in environments:
        environment.max_steps = 60  # so short that episodes end within the futures
    first, second = (collect_counterfactuals(environment, PROMPT, 50, seed=1) for environment in environments)
    assert np.array_equal(first.futures, second.futures) and np.array_equal(first.lengths, second.lengths)
    assert first.lengths.min() < 50
    last = controllability(first, first.futures)[-1]["controllability"]
    assert last is None or last["n"] < 6


def test_a_perfect_rollout_is_always_correct(counterfactuals):
    table = controllability(counterfactuals, counterfactuals.futures)
    for row in table:
        assert row["controllability"]["value"] == row["controllability"]["low"] == 1.0
        assert row["chance"]["value"] >= 1 / PONG_ACTIONS
        assert row["above_chance"]["value"] == pytest.approx(1 - row["chance"]["value"])
    assert [row["frame"] for row in table] == [1, 2, 4, 8, 16]


def states_with_distinct_futures(counterfactuals, horizon):
    """The states whose futures last until a frame and all differ there."""
    return [
        state
        for state, futures in enumerate(counterfactuals.futures[:, :, horizon - 1])
        if len(set(identical_groups(futures))) == len(futures) and counterfactuals.lengths[state].min() >= horizon
    ]


def test_a_rollout_under_wrong_actions_is_never_correct(counterfactuals):
    wrong = np.roll(counterfactuals.futures, 1, axis=1)
    states = states_with_distinct_futures(counterfactuals, 8)
    assert len(states) >= 3
    accuracy, _ = controllability_by_state(counterfactuals, wrong, 8)
    assert (accuracy[states] == 0).all()


def test_a_model_that_ignores_actions_reaches_chance_exactly(counterfactuals):
    # The same rollout under all actions is nearest to the same future under all of them.
    same = np.repeat(counterfactuals.futures[:, :1], PONG_ACTIONS, axis=1)
    accuracy, chance = controllability_by_state(counterfactuals, same, 4)
    assert np.array_equal(accuracy, chance, equal_nan=True) and np.isfinite(chance).any()


def test_a_tie_is_wrong(counterfactuals):
    grey = np.zeros_like(counterfactuals.futures)
    futures = np.full_like(counterfactuals.futures, 10)
    one_future = replace(counterfactuals, futures=futures, lengths=np.full((12, 3), 16))
    assert np.isnan(controllability_by_state(one_future, grey, 4)[0]).all()  # no second future to confuse it with
    futures[:, 0] = 20
    futures[:, 1, :, 0] = 20  # futures 1 and 2 are as far from 15 as each other
    futures[:, 2, :, 1] = 20
    accuracy, chance = controllability_by_state(one_future, np.full_like(grey, 15), 4)
    assert (accuracy == 0).all() and (chance == 1 / 3).all()


def test_identical_futures_count_as_one():
    futures = np.zeros((1, 4, 1, 2, 2, 1), np.uint8)
    futures[0, 3] = 200  # the other three actions do the same
    counterfactuals = Counterfactuals(futures[:, 0], np.zeros((1, 1), int), np.arange(4), futures, np.ones((1, 4), int))
    rollouts = futures.copy()
    rollouts[0, 0] = 200  # one of the three is wrong
    accuracy, chance = controllability_by_state(counterfactuals, rollouts, 1)
    assert accuracy.tolist() == [pytest.approx((2 / 3 + 1) / 2)] and chance.tolist() == [0.5]


def test_noise_reaches_chance_on_average(counterfactuals):
    one_frame = replace(counterfactuals, futures=counterfactuals.futures[:, :, 7:8], lengths=np.ones((12, 3), int))
    results = [controllability_by_state(one_frame, noise(one_frame.futures.shape, seed), 1) for seed in range(40)]
    accuracy, chance = np.array(results).swapaxes(0, 1)
    assert np.nanmean(accuracy - chance) == pytest.approx(0, abs=0.04)
    assert np.nanstd(accuracy - chance) > 0.1  # noise does not ignore actions, it guesses


# Inverse dynamics


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


# Drift


@pytest.fixture(scope="module")
def reference(pong_set, held_out):
    train = ClipDataset(pong_set, "train", clip_frames=1)
    frames = np.concatenate([record.frames for record in draw_records(train, 24, 0)])[::2]
    return DriftReference(frames, [record.frames for record in held_out.records(range(3))], held_out.metadata.fps)


def real_future(record, metadata, actions):
    """The frames of the real game from a record's start under other actions."""
    environment, _ = replay_to(record, metadata)
    return np.stack([environment.step(np.array([action]))[0][0] for action in actions])


def test_a_perfect_long_rollout_does_not_collapse(reference, held_out):
    clips = draw_clips(held_out, 3, PROMPT + 20, PROMPT + 1, seed=0)
    actions = scripted_actions(clips, 3, 240, seed=0)
    records = held_out.records(range(3))
    rollouts = [real_future(record, held_out.metadata, row) for record, row in zip(records, actions, strict=True)]
    result = drift(np.stack([reference.statistics(frames)[1] for frames in rollouts]), reference)
    assert result["collapsed"]["value"] == 0.0 and result["collapsed"]["n"] == 3
    assert len(result["collapsed_by_window"]) == 240 // 30
    assert result["real"]["collapsed"] < 0.03  # false alarms on real play
    for name in ("sharpness", "brightness", "motion"):
        assert result["statistics"][name][-1]["value"] == pytest.approx(result["real"]["median"][name], rel=0.5)


@pytest.mark.parametrize("kind", ["frozen", "flat", "blown out"])
def test_each_kind_of_collapse_is_recognised(reference, clips, kind):
    rng = np.random.default_rng(0)
    frames = {
        "frozen": np.repeat(clips.frames[0, :1], 90, axis=0),
        "flat": np.broadcast_to(rng.integers(0, 256, (90, 1, 1, 1)), (90, 64, 64, 3)).astype(np.uint8),
        "blown out": noise((90, 64, 64, 3)),
    }[kind]
    result = drift(reference.statistics(frames)[1][None], reference)
    assert result["collapsed"]["value"] == result["collapsed_how"][kind]["value"] == 1.0
    assert kind == "flat" or result["collapsed_how"]["flat"]["value"] == 0.0
    assert kind == "frozen" or result["collapsed_how"]["frozen"]["value"] == 0.0


def test_a_reference_needs_a_record_as_long_as_a_window(clips):
    with pytest.raises(ValueError, match="as long as a window of 30 frames"):
        DriftReference(clips.frames[0], [clips.frames[1]], fps=15.0)


# Key objects


BALL = KEY_OBJECTS["pong"]
BACKGROUND = (16, 24, 48)


def frame_with(*places):
    frame = np.full((64, 64, 3), BACKGROUND, np.uint8)
    for row, column in places:
        frame[row - 1 : row + 2, column - 1 : column + 2] = BALL.color
    return frame


def test_the_ball_of_pong_is_found_where_it_is():
    with closing(make_environment("pong", 4, seed=0)) as environment:
        for _ in range(40):
            frames = environment.step(np.zeros(4, int))[0]
            for frame, place in zip(frames, environment._state["ball"][:, ::-1], strict=True):
                (found,) = find_objects(frame, BALL)
                assert np.abs(found + 0.5 - place).max() <= 1.5


def test_places_are_compared():
    real = np.stack([frame_with((10, 10)), frame_with((30, 30)), frame_with((50, 20)), frame_with()])
    rollouts = np.stack([frame_with((12, 11)), frame_with((30, 40)), frame_with(), frame_with((5, 5))])
    rollouts[0] = rollouts[0] * 0.8  # paler
    shares = compare_objects(real, rollouts, BALL)
    assert shares["kept"]["value"] == pytest.approx(1 / 3) and shares["kept"]["n"] == 3
    assert shares["real"]["value"] == pytest.approx(1 / 3) and shares["real"]["n"] == 3
    same = compare_objects(real, real, BALL)
    assert same["kept"]["value"] == same["real"]["value"] == 1
    assert compare_objects(real, np.stack([frame_with()] * 4), BALL)["real"] is None  # no object, none of them real


def test_a_rollout_is_alive_if_half_of_its_frames_show_the_object():
    shown, empty = frame_with((9, 9)), frame_with()
    stretches = [np.stack(frames) for frames in ([shown, empty], [empty, empty], [shown, shown], [empty, empty])]
    assert is_alive(stretches, BALL)["value"] == 0.5
    assert is_alive([], BALL) is None


def test_clips_show_the_object_from_the_prompt_on(pong_set):
    data = ClipDataset(pong_set, "test", clip_frames=1)
    clips = clips_with_object(data, BALL, 3, 4, seed=0)
    assert clips.frames.shape[:2] == (3, 4 + max(FRAMES)) and clips.lengths.min() == 4 + max(FRAMES)
    for frames in clips.frames:
        assert all(len(find_objects(frames[3 + frame], BALL)) for frame in (0, *FRAMES))
    coin = KEY_OBJECTS["coinrun"]
    with pytest.raises(ValueError, match="shows a coin"):
        clips_with_object(data, coin, 3, 4, seed=0)


# Rewards and ends


NAN = np.nan


def test_figures_of_known_predictions():
    real = np.array([[0.0, 1, 0, 0], [0, -1, 0, 1], [NAN, NAN, NAN, NAN]])
    predicted = np.array([[0.0, 0.8, 0.6, 0], [0, 0.9, 0, 0.2], [1, 1, 1, 1]])
    figures = compare_with_truth(predicted, real, 0.5, np.array([0.1, 0.5]))
    assert figures["events"] == 3
    assert figures["precision"]["value"] == pytest.approx(1 / 3)  # one right, one for nothing, one of the wrong sign
    assert figures["recall"]["value"] == pytest.approx(1 / 3)
    assert figures["error"]["value"] == pytest.approx((0.2 + 0.6 + 1.9 + 0.8) / 8)
    assert figures["trivial_error"]["value"] == pytest.approx(3 / 8)
    rows = figures["calibration"]
    assert [row["num_frames"] for row in rows] == [4, 1, 3]
    assert rows[2]["predicted"] == pytest.approx(2.3 / 3) and rows[2]["real"] == pytest.approx(0)
    assert compare_with_truth(predicted[2:], real[2:], 0.5, np.array([0.5])) is None
    assert compare_with_truth(predicted[:1] * 0, real[:1], 0.5, np.array([0.5]))["precision"] is None


def test_a_head_on_held_out_play_and_its_part_of_the_report(pong_set):
    model = random_model(replace(SMALLEST, num_actions=3, outcomes=True))
    with torch.no_grad():  # a head that always expects no reward, and the end with probability 1/2
        model.outcome_head.out.weight.zero_()
        model.outcome_head.out.bias.zero_()
    clips = ClipDataset(pong_set, "test", 6, outcomes=True)
    context = SimpleNamespace(
        model=model, device=torch.device("cpu"), data=pong_set, split="test", sizes={"outcome_clips": 1000},
        config=EvaluateConfig(checkpoint="x"),
    )  # fmt: skip
    section = OUTCOMES.measure(context)
    records = list(clips.records(range(len(clips.index.lengths))))
    ends = sum(bool(record.terminal) for record in records)
    assert section["end"]["events"] >= ends > 0
    assert section["reward"]["error"]["value"] == pytest.approx(section["reward"]["trivial_error"]["value"], abs=0.01)
    assert section["end"]["error"]["value"] == pytest.approx(0.5)
    assert section["end"]["recall"]["value"] == 1 and section["reward"]["recall"]["value"] == 0
    blocks = OUTCOMES.blocks({"outcomes": section})
    table = next(block for block in blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == ["reward", "end"]


# Filling in


def test_patterns_of_a_window():
    shown = {name: "".join(".k"[int(value)] for value in known) for name, known in patterns(16).items()}
    assert shown == {
        "between both ends": "kkkk........kkkk",
        "every other frame": "k.k.k.k.k.k.k.kk",
        "backward": "........kkkkkkkk",
        "forward": "kkkkkkkk........",
    }


def test_range_of_ordinary_steps():
    frames = np.zeros((41, 2, 2, 3), np.uint8)
    frames[1::2] = 10  # steps of 10 alone
    frames[40] = 255
    low, high = ordinary_range([frames])
    assert low == 10 and 10 <= high < 255


@pytest.fixture
def context(pong_set):
    """Held-out Pong, and a model of a window of 8 frames."""
    dataset = ClipDataset(pong_set, "test", clip_frames=1)
    config = ModelConfig(
        patch_size=16, dim=32, num_blocks=1, num_heads=2, window_frames=8, num_actions=3, prediction="x0", can_fill=True
    )
    model = random_model(config)
    return SimpleNamespace(
        model=model, inference_model=model, sizes={"num_clips": 3}, held_out=dataset, space=dataset.metadata.actions,
        settings=ResolvedSettings(2, 1.0, 0.02), config=EvaluateConfig(checkpoint="x", batch_size=2),
    )  # fmt: skip


def test_a_model_that_knows_the_truth_is_perfect(context, monkeypatch):
    """Under true actions this one answers with the truth, and under others with the nearest known frame."""
    truths = []
    draw_clips = infilling.draw_clips

    def note(*arguments):
        clips = draw_clips(*arguments)
        truths.extend(zip(clips.frames, clips.actions, strict=True))
        return clips

    def answer(clip):
        for frames, actions in truths:
            if np.array_equal(actions, clip.actions) and np.array_equal(frames[clip.known], clip.frames[clip.known]):
                return frames
        return nearest_known(clip.frames, clip.known)

    def complete(model, clips, space, settings):
        return [np.stack([answer(clip) for clip in clips])]

    monkeypatch.setattr(infilling, "draw_clips", note)
    monkeypatch.setattr(infilling, "complete", complete)
    section = measure(context)
    for pattern in section["patterns"]:
        rows = pattern["rows"]
        assert rows["true actions"]["psnr"]["value"] is None and rows["true actions"]["ssim"]["value"] == 1
        assert rows["hidden actions"] == rows["nearest known frame"]
        assert rows["cross-fade"]["psnr"]["value"] > 10
    loops, joins, ordinary = section["loops"], section["joins"], section["ordinary"]
    assert loops["frames"] == 32 and joins["frames"] == 4 and ordinary["low"] <= ordinary["median"] <= ordinary["high"]
    assert loops["into"]["value"] == 0 < loops["largest"]["value"]  # the nearest known frame is repeated, then it jumps


def test_a_model_of_random_weights_is_measured(context):
    section = measure(context)
    for pattern in section["patterns"]:
        psnr = {name: row["psnr"]["value"] for name, row in pattern["rows"].items()}
        assert psnr["true actions"] < psnr["nearest known frame"] and psnr["true actions"] != psnr["hidden actions"]
        assert psnr["true actions, 1 step"] != psnr["true actions"]


def test_a_model_that_cannot_fill_in_is_not_measured(context):
    context.model = random_model(ModelConfig(**{**context.model.config.to_dict(), "can_fill": False}))
    with pytest.raises(ValueError, match="never learnt to fill in"):
        measure(context)
