"""Stable-Baselines3's PPO on a Gymnasium vector environment of frames.

Shapes: N games, H x W x C pixels.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from einops import reduce
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage
from torch import Tensor, nn

STACKED_FRAMES = 4  # that the agent sees, of as many steps: one frame does not show motion
MIN_SIDE = 32  # pixels: frames are halved while their shorter side has at least twice as many
FEATURES = 128  # that the CNN gives to policy and value
# Chosen on real Pong: updates of 1024 steps with 16 games, and a horizon of some thirty steps.
PPO_SETTINGS = {
    "n_steps": 64, "batch_size": 256, "n_epochs": 4, "learning_rate": 1e-3, "gamma": 0.97, "gae_lambda": 0.95,
    "ent_coef": 0.01,
}  # fmt: skip


class GymnasiumVecEnv(VecEnv):
    """A Gymnasium vector environment that resets in the same step, as Stable-Baselines3 wants it.

    The real games do not give the last frame of an episode. The frame before it stands in; it matters only for
    the value of an episode that was truncated.

    Args:
        games: N games.
        frame_skip: frames for which each action is held. An episode that ends meanwhile ends the step; rewards of the
            frames after it belong to the next step.
    """

    def __init__(self, games: gymnasium.vector.VectorEnv, frame_skip: int = 1):
        assert games.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.SAME_STEP
        self.games, self.frame_skip = games, frame_skip
        shape = shrink(np.zeros((1, *games.single_observation_space.shape), np.uint8)).shape[1:]
        observations = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        super().__init__(games.num_envs, observations, games.single_action_space)
        # Of the current episode; `_rewards` are those that no step has given yet.
        self._rewards, self._returns, self._lengths = np.zeros((3, self.num_envs))

    def reset(self) -> np.ndarray:
        """Frames as `shrink` makes them."""
        frames, _ = self.games.reset(seed=self._seeds[0])
        self._frames = shrink(frames)
        for values in (self._rewards, self._returns, self._lengths):
            values[:] = 0
        return self._frames

    def step_async(self, actions: np.ndarray) -> None:
        """Note the actions of `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step the games: frames as `shrink` makes them, rewards (N,), ends (N,) and infos."""
        rewards, ended = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for _ in range(self.frame_skip):
            frames, frame_rewards, terminations, truncations, info = self.games.step(self._actions)
            self._rewards += frame_rewards
            self._returns += frame_rewards
            self._lengths += 1
            for game in np.flatnonzero((terminations | truncations) & ~ended):
                rewards[game], self._rewards[game] = self._rewards[game], 0
                infos[game] = {
                    "terminal_observation": (
                        shrink(info["final_obs"][game][None])[0] if "final_obs" in info else self._frames[game]
                    ),
                    "TimeLimit.truncated": bool(truncations[game]),
                    "episode": {"r": float(self._returns[game]), "l": int(self._lengths[game]), "t": 0.0},
                }
            for game in np.flatnonzero(terminations | truncations):
                self._returns[game] = self._lengths[game] = 0
            ended |= terminations | truncations
            self._frames = shrink(frames)
        rewards = np.where(ended, rewards, self._rewards).astype(np.float32)
        self._rewards[~ended] = 0
        return self._frames, rewards, ended, infos

    def close(self) -> None:
        """Close the games."""
        self.games.close()

    def get_attr(self, attr_name: str, indices=None) -> list[Any]:
        """An attribute of the games, the same for each."""
        return [getattr(self.games, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices=None) -> None:
        """Not supported."""
        raise NotImplementedError("the games share one object")

    def env_method(self, method_name: str, *args, indices=None, **kwargs) -> list[Any]:
        """Not supported."""
        raise NotImplementedError("the games share one object")

    def env_is_wrapped(self, wrapper_class, indices=None) -> list[bool]:
        """No game is wrapped."""
        return [False] * self.num_envs


def shrink(frames: np.ndarray) -> np.ndarray:
    """Grey frames of fewer pixels, from which an agent learns faster (as in arXiv 1312.5602, section 4.1).

    uint8 (N, H, W, C) -> (N, h, w, 1). Sides are halved while the shorter one keeps MIN_SIDE pixels.
    """
    factor, (height, width) = 1, frames.shape[1:3]
    while min(height, width) // (2 * factor) >= MIN_SIDE and not (height % (2 * factor) or width % (2 * factor)):
        factor *= 2
    return reduce(frames.astype(np.float32), "n (h p) (w q) c -> n h w 1", "mean", p=factor, q=factor).astype(np.uint8)


class SmallCNN(BaseFeaturesExtractor):
    """Three convolutions that halve each side, then a linear map; about 0.6 M multiply-adds at 32x32."""

    def __init__(self, observation_space: gymnasium.spaces.Box, features_dim: int = FEATURES):
        super().__init__(observation_space, features_dim)
        channels, height, width = observation_space.shape
        convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, kernel_size=3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            size = convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.layers = nn.Sequential(convolutions, nn.Linear(size, features_dim), nn.ReLU())

    def forward(self, frames: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> (N, features)."""
        return self.layers(frames)


def stack_frames(games: gymnasium.vector.VectorEnv, frame_skip: int = 1) -> VecEnv:
    """The games as the agent sees them: the frames of the last STACKED_FRAMES steps, channels first."""
    return VecTransposeImage(VecFrameStack(GymnasiumVecEnv(games, frame_skip), STACKED_FRAMES, channels_order="last"))


def make_ppo(games: VecEnv, seed: int) -> PPO:
    """PPO (arXiv 1707.06347) with a small CNN, for games from `stack_frames`."""
    policy = {"features_extractor_class": SmallCNN}
    return PPO("CnnPolicy", games, seed=seed, policy_kwargs=policy, device="cpu", **PPO_SETTINGS)


class _RolloutCallback(BaseCallback):
    def __init__(self, function: Callable[[], None]):
        super().__init__()
        self._function = function

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._function()


def after_each_rollout(function: Callable[[], None]) -> BaseCallback:
    """A callback that calls the function after each rollout of PPO, before its update."""
    return _RolloutCallback(function)
