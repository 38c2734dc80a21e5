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


class GameVectorEnv(gymnasium.vector.VectorEnv):
    """N copies of one game. After a reset or step `info["level_seed"]` (N,) is the level that each copy is in.

    It is a context manager that closes the game at the end.
    """

    # Of the kind of game.
    option_names: ClassVar[tuple[str, ...]]  # keyword arguments of `describe`
    usage: ClassVar[str]  # how to name such a game

    name: str  # as given to `make_environment`
    options: dict[str, Any]  # keyword arguments of `describe`
    actions: ActionSpace
    fps: float
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

    def __init__(self, game: Game, num_envs: int, levels: tuple[int, int], seed: int):
        self._levels, self._seed = levels, seed
        self.name, self.options = game.environment, dict(game.environment_options)
        self.actions, self.fps, self.num_envs = game.actions, game.fps, num_envs
        self.explore_weights = np.ones(len(self.actions.names))
        self.single_observation_space = gymnasium.spaces.Box(0, 255, game.frame_shape, np.uint8)
        num_names = len(self.actions.names)
        box = gymnasium.spaces.Box(-1, 1, (num_names,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(num_names) if self.actions.discrete else box
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

    def get_state(self) -> list[bytes]:
        """The complete state of every game, including its level and random generator."""
        raise NotImplementedError

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore states from `get_state` of this or another object, one per game; returns the frames (N, H, W, C)."""
        raise NotImplementedError

    def suggested_actions(self) -> np.ndarray | None:
        """(N,) actions of a built-in player, which the `explore` policy mixes in; None if the game has none."""
        return None

    def __enter__(self) -> GameVectorEnv:
        """The game itself."""
        return self

    def __exit__(self, *error) -> None:
        """Close the game."""
        self.close()
