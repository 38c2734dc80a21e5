"""Counterfactual futures of the real game, and the controllability of artificial rollouts."""

from dataclasses import replace

import numpy as np
import pytest
from artificial import PROMPT, noise

from dreamrun.evaluation.counterfactuals import Counterfactuals, collect_counterfactuals, identical_groups
from dreamrun.evaluation.sections.controllability import controllability, controllability_by_state
from dreamrun.games.factory import make_environment
from dreamrun.games.space import UNKNOWN_ACTION

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
