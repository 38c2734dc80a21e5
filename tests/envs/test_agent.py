"""Agents of Stable-Baselines3, which ./setup.sh --rl installs: train, continue, score."""

import json
import sys

import numpy as np
import pytest
from tiny import refused, succeeded

pytest.importorskip("stable_baselines3")

from test_dream import dream_model

from dreamrun import envs
from dreamrun.envs import DreamVectorEnv, stable_baselines
from dreamrun.envs.stable_baselines import GymnasiumVecEnv, shrink, stack_frames


@pytest.fixture
def train(run_script, pong_set, tmp_path, monkeypatch):
    """train(*options): an agent in a dream whose episodes end soon."""
    settings = {**stable_baselines.PPO_SETTINGS, "n_steps": 4, "batch_size": 8, "n_epochs": 1}
    monkeypatch.setattr(stable_baselines, "PPO_SETTINGS", settings)
    dream_model(0.2).save_pretrained(tmp_path / "head")
    fixed = ("--checkpoint", tmp_path / "head", "--data", pong_set, "--num-envs", 2, "--wandb", "off")
    fixed += ("--frame-skip", 2, "--save-every", 16)
    return lambda *options: run_script("train_agent", *fixed, *options)


def test_agents_are_trained_continued_and_scored(train, run_script, tmp_path, pong_set):
    assert train("--out", "a", "--steps", 32)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [16, 32] and "agent/return" in lines[-1]
    assert "continues at frame 32 of 48" in succeeded(train("--out", "a", "--steps", 48))
    assert "nothing left to do" in succeeded(train("--out", "a", "--steps", 48))
    refused(train("--out", "a", "--steps", 64, "--seed", 1), "holds an agent of other settings")

    score = ("score_agent", "--agent", "a", "--episodes", 4, "--num-envs", 2)
    out = succeeded(run_script(*score))
    results = json.loads(out.splitlines()[-1])
    assert results["return"]["n"] == 4 and -3 <= results["return"]["value"] <= 3
    assert results["episode_steps"]["value"] > 60  # three points of the real game
    out = succeeded(run_script(*score, "--env", "dream", "--checkpoint", tmp_path / "head", "--data", pong_set))
    assert json.loads(out.splitlines()[-1])["episode_steps"]["value"] < 60
    (tmp_path / "a" / "agent.pt").write_bytes(b"no agent")
    refused(run_script(*score), "agent.pt cannot be used")
    for content in ("[]", '{"game": "pong", "game_options": {}, "frame_skip": true}'):
        (tmp_path / "a" / "agent.json").write_text(content)
        refused(run_script(*score), "does not describe an agent")


def test_the_same_seed_gives_the_same_score(run_script):
    random = ("score_agent", "--agent", "random", "--game", "pong", "--episodes", 4, "--num-envs", 4)
    first, again, other = (run_script(*random, "--seed", seed)[1].splitlines()[-1] for seed in (0, 0, 1))
    assert first == again != other


def test_an_agent_sees_the_last_frames_and_the_end_of_an_episode(pong_set):
    games = stack_frames(DreamVectorEnv(dream_model(), pong_set, num_envs=2, max_episode_steps=3))
    games.seed(0)
    first = games.reset()
    assert first.shape == (2, 4, 32, 32) and not first[:, :3].any()
    for _ in range(2):
        frames, _, dones, _ = games.step(np.zeros(2, int))
    assert np.array_equal(frames[:, 1], first[:, 3]) and not dones.any()
    after, _, dones, infos = games.step(np.zeros(2, int))
    assert dones.all() and infos[0]["TimeLimit.truncated"] and infos[0]["episode"]["l"] == 3
    assert np.array_equal(infos[0]["terminal_observation"][2], frames[0, 3])
    assert not after[:, :3].any()  # a new episode begins without a past
    assert isinstance(games.venv.venv, GymnasiumVecEnv)


def test_frames_are_shrunk_to_their_mean_brightness():
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 128, 3), np.uint8)
    small = shrink(frames)
    assert small.shape == (2, 32, 64, 1) and small[1, 3, 5, 0] == int(frames[1, 6:8, 10:12].mean())
    assert shrink(frames[:, :63]).shape == (2, 63, 128, 1)  # it cannot be halved


def test_an_action_is_held_and_the_rewards_of_its_frames_are_added(pong_set):
    model = dream_model()
    games, held = (DreamVectorEnv(model, pong_set, num_envs=2, max_episode_steps=5) for _ in range(2))
    adapter = GymnasiumVecEnv(held, frame_skip=3)
    adapter.seed(7)
    games.reset(seed=7)
    adapter.reset()
    rewards = [games.step(np.array([1, 2]))[1] for _ in range(6)]
    first = adapter.step(np.array([1, 2]))
    np.testing.assert_allclose(first[1], sum(rewards[:3]), rtol=1e-5)
    second = adapter.step(np.array([1, 2]))  # the episodes end after two of the three frames
    assert second[2].all() and second[3][0]["episode"]["l"] == 5
    np.testing.assert_allclose(second[1], sum(rewards[3:5]), rtol=1e-5)
    assert np.array_equal(second[0], shrink(games.frames))
    following = games.step(np.array([0, 0]))[1] + games.step(np.array([0, 0]))[1] + games.step(np.array([0, 0]))[1]
    np.testing.assert_allclose(adapter.step(np.array([0, 0]))[1], rewards[5] + following, rtol=1e-5)


def test_mistakes_are_one_line(run_script, train, monkeypatch, pong_set):
    refused(run_script("train_agent", "--env", "dream"), "--checkpoint")
    refused(run_script("train_agent", "--env", "real"), "--game")
    refused(run_script("score_agent", "--agent", "nowhere"), "nowhere holds no agent")
    result = run_script("score_agent", "--agent", "random", "--game", "pong", "--episodes", 7, "--num-envs", 2)
    refused(result, "episodes is 7")
    monkeypatch.setitem(sys.modules, "dreamrun.envs.stable_baselines", None)
    monkeypatch.delattr(envs, "stable_baselines")
    refused(train("--out", "b", "--steps", 8), "./setup.sh --rl")
