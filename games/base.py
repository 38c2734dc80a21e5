"""The base class of games, a Gymnasium vector environment.

Shapes: N games stepped together, frames uint8 (N, H, W, C).
A game that ends is reset in the same step (`AutoresetMode.SAME_STEP`): the observation is then the first frame of the
next episode, and the reward belongs to the episode that ended.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from dreamrun.games.game import Game
from dreamrun.games.space import ActionSpace

# First level and number of levels of each split. The ranges are disjoint and large, but finite: with num_levels=0
# Procgen is not reproducible.
SPLIT_LEVELS = {"train": (0, 1_000_000_000), "val": (1_000_000_000, 500_000_000), "test": (1_500_000_000, 500_000_000)}


def gym_space(space: ActionSpace) -> gymnasium.Space:
    """Discrete for one action at a time, MultiBinary for buttons, Box for axes, and for buttons and axes together.

    In a Box a button runs from 0 to 1, and an axis from -1 to 1.
    """
    if space.discrete:
        return gymnasium.spaces.Discrete(len(space.names))
    is_axis = np.array([kind == "axis" for kind in space.kinds])
    if not is_axis.any():
        return gymnasium.spaces.MultiBinary(len(space.names))
    return gymnasium.spaces.Box(np.where(is_axis, -1, 0).astype(np.float32), np.ones(len(is_axis), np.float32))


class GameVectorEnv(gymnasium.vector.VectorEnv):
    """N copies of one game. After a reset or step `info["level_seed"]` (N,) is the level that each copy is in."""

    # Of the kind of game.
    option_names: ClassVar[tuple[str, ...]]  # keyword arguments of `describe`
    usage: ClassVar[str]  # how to name such a game
    max_collected: ClassVar[int] = 16  # copies that are collected from at once

    name: str  # as given to `make_environment`
    options: dict[str, Any]  # keyword arguments of `describe`
    actions: ActionSpace
    fps: float
    level_seeds: np.ndarray  # int64 (N,)
    explore_weights: np.ndarray  # (names,), how often the `explore` policy draws each action of a discrete space
    metadata: ClassVar[dict] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    @classmethod
    def plays(cls, name: str) -> bool:
        """Whether a name is of a game of this kind: it begins as `usage` does."""
        return name.partition(":")[:2] == cls.usage.partition(":")[:2]

    @classmethod
    def check_name(cls, name: str, import_modules: bool = False) -> None:
        """Raises ValueError unless the name, which may come from a file, is a possible one of this kind.

        Args:
            import_modules: the user typed the name, so a module that it names may be imported.
        """

    @classmethod
    def describe(cls, *args: Any, **options: Any) -> Game:
        """The game of that name with these options. Raises ValueError if it is not installed, or for a bad option."""
        raise NotImplementedError

    def __init__(self, game: Game, num_envs: int, levels: tuple[int, int]):
        self._levels = levels
        self.name, self.options = game.environment, dict(game.environment_options)
        self.actions, self.fps, self.num_envs = game.actions, game.fps, num_envs
        self.explore_weights = np.ones(len(self.actions.names))
        self.single_observation_space = gymnasium.spaces.Box(0, 255, game.frame_shape, np.uint8)
        self.single_action_space = gym_space(self.actions)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def get_state(self) -> list[bytes]:
        """The complete state of every game, including its level and random generator."""
        raise NotImplementedError

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore states from `get_state` of this or another object, one per game; returns the frames (N, H, W, C).

        Raises ValueError if the game turns out not to be reproducible.
        """
        raise NotImplementedError

    def suggested_actions(self) -> np.ndarray | None:
        """(N,) actions of a built-in player, which the `explore` policy mixes in; None if the game has none."""
        return None

    def info(self) -> dict[str, Any]:
        """What `reset` and `step` return last."""
        return {"level_seed": self.level_seeds.copy()}
