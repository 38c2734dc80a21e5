"""The real games: shapes, saved states, splits, and quiet imports."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dreamrun.games.base import SPLIT_LEVELS
from dreamrun.games.factory import make_environment
from dreamrun.games.procgen_actions import PROCGEN_GAMES

GAMES = ("pong", "coinrun")
NUM_STEPS = 600  # in which some episode ends, played at random


def play_randomly(environment, num_steps: int, seed: int):
    """What each of that many steps gives."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, len(environment.actions), (num_steps, environment.num_envs))
    return [environment.step(action) for action in actions]


def assert_same_steps(one, other):
    for (frames, *outcome, info), (other_frames, *other_outcome, other_info) in zip(one, other, strict=True):
        assert np.array_equal(frames, other_frames)
        for value, other_value in zip(outcome, other_outcome, strict=True):
            assert np.array_equal(value, other_value)
        assert np.array_equal(info["level_seed"], other_info["level_seed"])


@pytest.mark.parametrize("name", GAMES)
def test_shapes_and_types(name):
    environment = make_environment(name, 3)
    frames, info = environment.reset()
    assert environment.observation_space.contains(frames)
    assert frames.shape == (3, *environment.single_observation_space.shape) == (3, 64, 64, 3)
    assert info["level_seed"].shape == (3,) and info["level_seed"].dtype == np.int64
    assert environment.single_action_space.n == len(environment.actions) == len(environment.explore_weights)
    assert environment.action_space.contains(environment.action_space.sample())
    for frames, rewards, terminations, truncations, info in play_randomly(environment, 30, seed=0):
        assert environment.observation_space.contains(frames)
        assert (rewards.shape, rewards.dtype) == ((3,), np.float32)
        assert terminations.shape == truncations.shape == (3,)
        assert terminations.dtype == truncations.dtype == bool
        assert info["level_seed"].shape == (3,)
    environment.close()


@pytest.mark.parametrize("name", GAMES)
def test_returned_arrays_do_not_change_later(name):
    environment = make_environment(name, 2)
    steps = play_randomly(environment, 5, seed=0)
    kept = [(frames.copy(), rewards.copy(), info["level_seed"].copy()) for frames, rewards, _, _, info in steps]
    later = play_randomly(environment, 20, seed=1)
    assert any(not np.array_equal(frames, steps[0][0]) for frames, *_ in later)  # or this shows nothing
    for (frames, rewards, *_, info), (kept_frames, kept_rewards, kept_seeds) in zip(steps, kept, strict=True):
        assert np.array_equal(frames, kept_frames)
        assert np.array_equal(rewards, kept_rewards)
        assert np.array_equal(info["level_seed"], kept_seeds)


@pytest.mark.parametrize(
    ("name", "options"),
    [("pong", {}), ("coinrun", {}), ("coinrun", {"simple": True}), ("coinrun", {"distribution_mode": "hard"})],
)
def test_restored_state_replays_bit_identically(name, options):
    """For longer than an episode lasts, so that the levels after it are the same ones too."""
    environment = make_environment(name, 8, seed=5, options=options)
    play_randomly(environment, 40, seed=1)
    states, before = environment.get_state(), play_randomly(environment, NUM_STEPS, seed=2)
    assert any((terminations | truncations).any() for _, _, terminations, truncations, _ in before)
    frames = environment.set_state(states)
    assert_same_steps(before, play_randomly(environment, NUM_STEPS, seed=2))
    other = make_environment(name, 8, seed=6, options=options)
    play_randomly(other, 7, seed=3)
    assert np.array_equal(other.set_state(states), frames)
    assert_same_steps(before, play_randomly(other, NUM_STEPS, seed=2))


@pytest.mark.parametrize("name", GAMES)
def test_one_state_restored_in_many_games(name):
    environment = make_environment(name, 1, seed=5)
    play_randomly(environment, 40, seed=1)
    many = make_environment(name, 4, seed=6)
    frames = many.set_state(environment.get_state() * 4)
    assert (frames == frames[0]).all()
    actions = np.full(4, environment.actions.noop)
    for _ in range(5):
        expected = environment.step(actions[:1])[0]
        assert (many.step(actions)[0] == expected).all()


@pytest.mark.parametrize("name", GAMES)
def test_same_seed_gives_same_play(name):
    one, same, other = (make_environment(name, 4, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.reset()[0], same.reset()[0])
    assert_same_steps(play_randomly(one, 50, seed=0), play_randomly(same, 50, seed=0))
    assert not set(one.reset()[1]["level_seed"]) & set(other.reset()[1]["level_seed"])


def test_procgen_options_change_the_frames():
    plain, simple, hard = (
        make_environment("coinrun", 8, seed=1, options=options).reset()[0]
        for options in ({}, {"simple": True}, {"distribution_mode": "hard"})
    )
    assert not np.array_equal(plain, hard)
    sky = simple[0, 0, 0]  # one colour, without backgrounds
    assert (simple == sky).all(-1).mean() > 0.5 > (plain == sky).all(-1).mean()
    assert all(len(np.unique(frame.reshape(-1, 3), axis=0)) < 10 for frame in simple)


@pytest.mark.parametrize("split", SPLIT_LEVELS)
@pytest.mark.parametrize("name", GAMES)
def test_levels_are_those_of_the_split_alone(name, split):
    spans = sorted((first, first + count) for first, count in SPLIT_LEVELS.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)) and len(spans) == 3
    assert spans[0][0] >= 0 and spans[-1][1] <= 2**31  # Procgen counts levels in 32 bits
    environment = make_environment(name, 16, SPLIT_LEVELS[split])
    steps = play_randomly(environment, 300, seed=0)
    seeds = {int(seed) for *_, info in steps for seed in info["level_seed"]}
    first, count = SPLIT_LEVELS[split]
    assert len(seeds) > 16  # new ones came after the first
    assert all(first <= seed < first + count for seed in seeds)


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("levels", [(-5, 1), (0, 0), (2**31, 1), (2**31 - 1, 2), (2**62, 1)])
def test_levels_out_of_range_are_an_error(name, levels):
    """Procgen would end the process. A record's level seed may come from a stranger."""
    with pytest.raises(ValueError, match=r"levels .* must lie in 0 to 2147483647"):
        make_environment(name, 1, levels)


def test_unknown_game_lists_the_games():
    with pytest.raises(ValueError, match=r"unknown environment 'tetris': choose pong or .*bigfish.*coinrun.*starpilot"):
        make_environment("tetris", 1)
    with pytest.raises(ValueError, match='distribution_mode is \'extreme\': choose "easy" or "hard"'):
        make_environment("coinrun", 1, options={"distribution_mode": "extreme"})


@pytest.mark.parametrize("name", ["pong", *PROCGEN_GAMES])
def test_action_space_of_every_game(name):
    environment = make_environment(name, 1)
    actions = environment.actions
    assert len(set(actions.names)) == len(actions.keys) == len(actions)
    assert actions.noop in actions.acting and actions.keys[actions.noop] == ()
    assert all(actions.index(action.upper()) == number for number, action in enumerate(actions.names))
    assert {int(action) for action in np.flatnonzero(environment.explore_weights)} == set(actions.acting)
    assert environment.reset()[0].shape == (1, 64, 64, 3)
    environment.close()


# Pong's own rules


def test_pong_paddle_follows_its_keys_and_stays_inside():
    environment = make_environment("pong", 1)
    player = np.array([90, 220, 120])

    def rows(frames):
        return np.flatnonzero((frames[0] == player).all(-1).any(1))

    frames, _ = environment.reset()
    middle = rows(frames)
    assert len(middle) == environment.paddle_height
    up, noop, down = (environment.actions.index(name) for name in ("up", "noop", "down"))
    assert np.array_equal(rows(environment.step([up])[0]), middle - environment.player_speed)
    assert np.array_equal(rows(environment.step([noop])[0]), middle - environment.player_speed)
    assert np.array_equal(rows(environment.step([down])[0]), middle)
    for action, edge in ((up, 0), (down, 64 - environment.paddle_height)):
        for _ in range(40):
            frames = environment.step([action])[0]
        assert rows(frames)[0] == edge and len(rows(frames)) == environment.paddle_height


def test_pong_episodes_have_three_points_and_can_be_won():
    environment, points, episodes, total = make_environment("pong", 4), np.zeros(4), 0, 0.0
    for _ in range(1500):
        _, rewards, terminations, truncations, _ = environment.step(environment.suggested_actions())
        assert set(rewards.tolist()) <= {-1.0, 0.0, 1.0}
        points += np.abs(rewards)
        assert (points[terminations] == environment.points_per_episode).all()
        assert (points[~terminations] < environment.points_per_episode).all()
        points[terminations | truncations] = 0
        episodes, total = episodes + int((terminations | truncations).sum()), total + float(rewards.sum())
    assert episodes >= 4
    assert total > 0  # following the ball beats the opponent


def test_pong_truncates_after_max_steps():
    environment = make_environment("pong", 1)
    environment.max_steps, ended = 20, []
    for step in range(1, 61):
        _, _, terminations, truncations, _ = environment.step([0])
        if (terminations | truncations).any():
            ended.append((step, bool(terminations[0])))
    assert ended == [(20, False), (40, False), (60, False)]


def test_importing_the_games_prints_nothing():
    """gym, which Procgen imports, has a notice to print."""
    code = "import dreamrun.games.factory as e; e.make_environment('coinrun', 1)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
