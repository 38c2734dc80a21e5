"""The real games that episodes are collected from, in the shape of Gymnasium's vector environments.

Shapes: N games stepped together, frames uint8 (N, H, W, C).
A game that ends starts anew in the same step (`AutoresetMode.SAME_STEP`): the observation is then the next
episode's first frame, while the reward still belongs to the episode that ended.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from data.actions import ActionSpace
from data.metadata import Metadata

# Levels of each split: disjoint, finite (with num_levels=0 Procgen is not reproducible), and very large.
SPLIT_LEVELS = {
    "train": (0, 1_000_000_000),
    "val": (1_000_000_000, 500_000_000),
    "test": (1_500_000_000, 500_000_000),
}


class GameVectorEnv(gymnasium.vector.VectorEnv):
    """N copies of one game. `info["level_seed"]` (N,) tells the level that each is in after a reset or step."""

    name: str  # as given to `make_environment`
    options: dict[str, Any]  # what the game was made with, but for levels and seeds
    actions: ActionSpace
    fps: float
    explore_weights: np.ndarray  # how the `explore` policy leans: one for each action of a discrete space
    metadata: ClassVar[dict] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, described: Metadata, num_envs: int):
        self.name, self.options = described.environment, dict(described.environment_options)
        self.actions, self.fps, self.num_envs = described.actions, described.fps, num_envs
        self.explore_weights = np.ones(len(self.actions.names))
        self.single_observation_space = gymnasium.spaces.Box(0, 255, described.frame_shape, np.uint8)
        names = len(self.actions.names)
        box = gymnasium.spaces.Box(-1, 1, (names,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(names) if self.actions.discrete else box
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def get_state(self) -> list[bytes]:
        """The complete state of every game, level and random stream included."""
        raise NotImplementedError

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Put every game into a state that `get_state` gave, of this or another object; returns the frames."""
        raise NotImplementedError

    def suggested_actions(self) -> np.ndarray | None:
        """(N,) actions of a fair player, for the `explore` policy to mix in; None where there is no such player."""
        return None
