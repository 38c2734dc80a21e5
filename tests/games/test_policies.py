"""Policies: uniform, explore, and functions of your own."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import CONTROLS

from dreamrun.data.records import Record, decode_record, encode_record
from dreamrun.games.factory import make_environment
from dreamrun.games.policies import POLICIES, checked


def actions_of(policy: str, game: str, num_steps: int = 400, num_envs: int = 16) -> np.ndarray:
    """(steps, games) of real play."""
    environment, actions = make_environment(game, num_envs), []
    chosen = POLICIES[policy](environment, np.random.default_rng(0))
    for _ in range(num_steps):
        actions.append(chosen(None))
        environment.step(actions[-1])
    return np.stack(actions)


def test_uniform_policy_takes_every_action_alike_and_holds_none():
    actions = actions_of("uniform", "coinrun")
    share = np.bincount(actions.ravel(), minlength=15) / actions.size
    assert len(share) == 15 and abs(share - 1 / 15).max() < 0.015
    assert abs((actions[1:] == actions[:-1]).mean() - 1 / 15) < 0.02


def test_explore_policy_holds_actions_that_act_and_leans_right_in_coinrun():
    actions, space = actions_of("explore", "coinrun"), make_environment("coinrun", 1).actions
    assert set(np.unique(actions)) == set(space.acting) == {1, 2, 4, 5, 7, 8}
    assert (actions[1:] == actions[:-1]).mean() > 0.75  # held for six steps: five changes out of six are none
    held = {key: np.isin(actions, [i for i in space.acting if key in space.keys[i]]).mean() for key in space.all_keys}
    assert held["RIGHT"] > 2 * held["LEFT"] > 0
    assert held["UP"] > 0.3


def test_explore_policy_follows_the_ball_of_pong_half_of_the_time():
    environment, followed = make_environment("pong", 16), []
    policy = POLICIES["explore"](environment, np.random.default_rng(0))
    for _ in range(400):
        actions = policy(None)
        followed.append(actions == environment.suggested_actions())
        environment.step(actions)
    assert 0.55 < np.mean(followed) < 0.8  # half of the time, and in a third of the rest by chance


def test_explore_policy_follows_suggestions_of_buttons_in_whole_games():
    """Six games and six names, so that a mistaken axis is not noticed by its size."""
    suggested = np.full((6, 6), 0.25, np.float32)
    game = SimpleNamespace(
        actions=CONTROLS, num_envs=6, explore_weights=np.ones(6), suggested_actions=lambda: suggested
    )
    policy, shares = POLICIES["explore"](game, np.random.default_rng(0)), []
    for _ in range(200):
        followed = policy(None) == suggested
        assert (followed.all(1) | ~followed.any(1)).all()
        shares.append(followed.all(1).mean())
    assert 0.3 < np.mean(shares) < 0.7


@pytest.mark.parametrize("pressed", [True, 1, 1.0])
def test_buttons_that_a_policy_presses_can_be_read_again_whatever_it_counts_in(pressed):
    game = SimpleNamespace(actions=CONTROLS, num_envs=2)
    actions = checked(lambda *_: np.full((2, 6), pressed), game, None)(None)
    record = Record(np.zeros((2, 4, 4, 3), np.uint8), actions)
    assert decode_record(encode_record(record), (4, 4, 3), CONTROLS).actions.tolist() == np.ones((2, 6)).tolist()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, None, "left"])
def test_a_policy_that_gives_no_numbers_is_refused(wrong):
    game = SimpleNamespace(actions=CONTROLS, num_envs=2)
    with pytest.raises(ValueError, match=r"expected finite numbers of shape \(2, 6\)"):
        checked(lambda *_: np.full((2, 6), wrong), game, None)(None)
