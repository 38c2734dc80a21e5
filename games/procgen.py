"""OpenAI's Procgen games."""

import contextlib
import io
from typing import Any

import numpy as np

from dreamrun.games.base import GameVectorEnv
from dreamrun.games.game import Game


class ProcgenVectorEnv(GameVectorEnv):
    """N copies of one of the sixteen Procgen games (arXiv 1912.01588): 64x64 RGB, 15 actions."""

    def __init__(self, game: Game, num_envs: int, levels: tuple[int, int], seed: int):
        super().__init__(game, num_envs)
        # Levels of CoinRun and Ninja are crossed from left to right; other games are explored evenly.
        key_weights = {"RIGHT": 3.0} if self.name in ("coinrun", "ninja") else {}
        self.explore_weights = np.zeros(len(self.actions))
        for action in self.actions.acting:
            self.explore_weights[action] = np.prod([key_weights.get(key, 1.0) for key in self.actions.keys[action]])
        if key_weights:
            self.explore_weights[self.actions.noop] = 0.5
        first, count = levels
        simple = self.options["simple"]
        self._game = _import_procgen().ProcgenGym3Env(
            num=num_envs,
            env_name=self.name,
            start_level=first,
            num_levels=count,
            rand_seed=seed,
            distribution_mode=self.options["distribution_mode"],
            use_backgrounds=not simple,
            use_monochrome_assets=simple,
            restrict_themes=simple,
            num_threads=0,  # collection runs one process per core
        )
        self._level_seeds = self._read_level_seeds()

    def reset(self, *, seed=None, options=None):
        """Ignores `seed`: returns the current frames, as Procgen cannot be reset. `make_environment` takes the seed."""
        _, observation, _ = self._game.observe()
        return observation["rgb"].copy(), self._info()

    def step(self, actions):
        self._game.act(np.asarray(actions, np.int32))
        rewards, observation, first = self._game.observe()
        if first.any():
            self._level_seeds = self._read_level_seeds()
        # Procgen does not distinguish a timeout from an end: both count as termination.
        return observation["rgb"].copy(), rewards, first, np.zeros_like(first), self._info()

    def get_state(self) -> list[bytes]:
        return self._game.callmethod("get_state")

    def set_state(self, states: list[bytes]) -> np.ndarray:
        self._game.callmethod("set_state", states)
        self._level_seeds = self._read_level_seeds()
        return self._game.observe()[1]["rgb"].copy()

    def close_extras(self, **kwargs):
        self._game.close()

    def _info(self) -> dict[str, Any]:
        return {"level_seed": self._level_seeds.copy()}

    def _read_level_seeds(self) -> np.ndarray:
        return np.array([info["level_seed"] for info in self._game.get_info()], np.int64)


def _import_procgen():
    """Import procgen without the notice that its dependency gym prints."""
    with contextlib.redirect_stderr(io.StringIO()):
        import procgen
    return procgen
