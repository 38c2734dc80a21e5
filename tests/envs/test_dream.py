"""The dream as a Gymnasium environment, with a network of random weights on real Pong."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from tiny import CONTROLS, SMALLEST, random_model

from dreamrun import envs
from dreamrun.data.batch import to_float, to_uint8
from dreamrun.data.dataset import ClipDataset
from dreamrun.envs import DREAM_ID, DreamEnv, DreamVectorEnv
from dreamrun.envs.dream import recorded_actions
from dreamrun.games.base import gym_space
from dreamrun.model import Sampler

CONFIG = replace(SMALLEST, num_actions=3, num_steps=1, outcomes=True)


def dream_model(end: float = 0.0):
    """Random frames. The reward is that of one action alone, and episodes end with one probability."""
    model = random_model(CONFIG)
    with torch.no_grad():
        model.outcome_head.out.weight.zero_()
        model.outcome_head.out.bias.zero_()
        model.outcome_head.out.bias[-1] = torch.logit(torch.tensor(end, dtype=torch.float64), eps=1e-12)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "head"
    dream_model(0.1).save_pretrained(folder)
    return folder


def play(games, actions, seed=None):
    """Frames, rewards and ends of a few steps."""
    frames, info = games.reset(seed=seed)
    steps = [games.step(action) for action in actions]
    return np.stack([frames, *(step[0] for step in steps)]), steps, info


def random_actions(num_steps, num_envs, seed=0):
    return np.random.default_rng(seed).integers(0, 3, (num_steps, num_envs))


def test_gymnasium_accepts_the_environment(checkpoint, pong_set):
    env = gymnasium.make(DREAM_ID, checkpoint=checkpoint, data=pong_set, render_mode="rgb_array")
    check_env(env.unwrapped)
    frame, info = env.reset(seed=3)
    assert env.observation_space.contains(frame) and {"prompt_record", "noise_seed"} <= info.keys()
    assert np.array_equal(env.render(), frame) and env.metadata["render_fps"] == 15
    frame, reward, *_ = env.step(env.action_space.sample())
    assert np.array_equal(env.render(), frame) and isinstance(reward, float)
    env.close()
    limited = gymnasium.make(DREAM_ID, checkpoint=dream_model(), data=pong_set, max_episode_steps=2)
    limited.reset(seed=0)
    assert [limited.step(0)[3] for _ in range(2)] == [False, True]


def test_vector_environment_by_its_name(checkpoint, pong_set):
    games = gymnasium.make_vec(DREAM_ID, num_envs=3, checkpoint=checkpoint, data=pong_set, max_episode_steps=4)
    assert isinstance(games, DreamVectorEnv) and games.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    frames, _ = games.reset(seed=0)
    assert games.observation_space.contains(frames) and frames.dtype == np.uint8
    for _ in range(6):
        frames, rewards, terminations, truncations, _ = games.step(games.action_space.sample())
        assert games.observation_space.contains(frames)
        assert rewards.dtype == np.float32 and rewards.shape == (3,)
        assert terminations.dtype == truncations.dtype == bool and terminations.shape == truncations.shape == (3,)
        assert not (terminations & truncations).any()
    games.close()


def test_frames_are_those_of_the_sampler_to_the_bit(pong_set):
    """For the same prompts, seeds and actions, also after some of the games have started anew."""
    model, actions = dream_model(), random_actions(6, 3)
    games = DreamVectorEnv(model, pong_set, num_envs=3, max_episode_steps=None)
    space = games.sampler  # of the same prepared model
    frames, _, info = play(games, actions, seed=5)
    records = ClipDataset(pong_set, "train", 4)
    prompts = [next(iter(records.records([record]))) for record in info["prompt_record"]]
    cut = [slice(start, start + 4) for start in info["prompt_start"]]
    prompt_frames = np.stack([record.frames[part] for record, part in zip(prompts, cut)])
    prompt_actions = np.stack([record.leading_actions()[part] for record, part in zip(prompts, cut)])
    vectors = records.metadata.actions.vectors
    sampler = Sampler(space.model)
    sampler.reset(to_float(prompt_frames), torch.from_numpy(vectors(prompt_actions)), seeds=info["noise_seed"].tolist())
    expected = [to_uint8(sampler.step(torch.from_numpy(vectors(action)))) for action in actions]
    assert np.array_equal(frames[0], prompt_frames[:, -1])
    assert np.array_equal(frames[1:], expected)


def test_the_seed_decides_all(pong_set):
    actions, model = random_actions(8, 2), dream_model(0.3)
    games, again = (DreamVectorEnv(model, pong_set, num_envs=2) for _ in range(2))
    first, second, other = play(games, actions, 1), play(again, actions, 1), play(again, actions, 2)
    assert np.array_equal(first[0], second[0]) and not np.array_equal(first[0], other[0])
    for a, b in zip(first[1], second[1], strict=True):
        assert np.array_equal(a[1], b[1]) and np.array_equal(a[2], b[2])
    assert any(step[2].any() for step in first[1])
    # Game i has seed + i, and the same as a single environment.
    frames, _, _ = play(games, actions, [1, 2])
    assert np.array_equal(frames, first[0])
    with DreamEnv(model, pong_set) as single:
        assert np.array_equal(single.reset(seed=2)[0], frames[0, 1])
    without_seed, _ = games.reset()
    assert not np.array_equal(without_seed, frames[0])


def test_games_that_end_start_anew_in_the_same_step(pong_set):
    model = dream_model(0.0)
    games = DreamVectorEnv(model, pong_set, num_envs=2, max_episode_steps=3)
    games.reset(seed=0)
    games.step(np.zeros(2, int))
    _, old_info = games.reset(options={"reset_mask": np.array([False, True])})
    games.step(np.zeros(2, int))
    frames, _, terminations, truncations, info = games.step(np.zeros(2, int))
    assert truncations.tolist() == [True, False] and not terminations.any()
    assert info["_final_obs"].tolist() == [True, False]
    assert info["final_obs"][1] is None and info["final_obs"][0].shape == frames[0].shape
    assert not np.array_equal(info["final_obs"][0], frames[0])
    assert info["final_info"]["noise_seed"][0] == old_info["noise_seed"][0] != info["noise_seed"][0]
    assert info["noise_seed"][1] == old_info["noise_seed"][1]
    assert games.step(np.zeros(2, int))[3].tolist() == [False, True]
    # A game in a slot that starts anew does not change the others.
    assert games.sampler.slots == [0, 1]
    games.close()
    assert games.sampler.slots == []


def test_every_episode_ends_when_the_head_is_sure(pong_set):
    games = DreamVectorEnv(dream_model(1.0), pong_set, num_envs=2)
    games.reset(seed=0)
    assert games.step(np.zeros(2, int))[2].all()


def test_spaces():
    space = gym_space(CONTROLS)
    assert space.low.tolist() == [0, 0, 0, 0, -1, -1] and (space.high == 1).all()
    recorded = recorded_actions(CONTROLS, np.array([[0.7, 0.2, 1, 0, -0.4, 0.9]]))
    np.testing.assert_allclose(recorded, [[1, 0, 1, 0, -0.4, 0.9]], rtol=1e-6)
    buttons = replace(CONTROLS, kinds=("button",) * 6)
    buttons_space = gym_space(replace(buttons, keys=tuple((key,) for key in "ABCDEF")))
    assert isinstance(buttons_space, gymnasium.spaces.MultiBinary) and buttons_space.n == 6
    with pytest.raises(ValueError, match="6 finite numbers"):
        recorded_actions(CONTROLS, np.zeros((1, 5)))


def test_mistakes(pong_set, checkpoint):
    with pytest.raises(ValueError, match="no outcome head"):
        DreamVectorEnv(random_model(replace(CONFIG, outcomes=False)), pong_set)
    with pytest.raises(ValueError, match="num_prompt_frames is 6"):
        DreamVectorEnv(checkpoint, pong_set, num_prompt_frames=6)
    with pytest.raises(ValueError, match="render_mode is 'human'"):
        DreamVectorEnv(checkpoint, pong_set, render_mode="human")
    games = DreamVectorEnv(checkpoint, pong_set, num_envs=2)
    with pytest.raises(ValueError, match="call reset first"):
        games.step(np.zeros(2, int))
    with pytest.raises(ValueError, match="1 seeds for 2 games"):
        games.reset(seed=[1])
    games.reset(seed=0)
    with pytest.raises(ValueError, match="integers from 0 to 2"):
        games.step(np.array([0, 3]))
    assert envs.DREAM_ID in gymnasium.registry
