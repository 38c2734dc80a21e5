"""TODO."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from data.games.base import GameVectorEnv
from data.metadata import Metadata


class ProcgenVectorEnv(GameVectorEnv):
    """One of OpenAI's sixteen Procgen games (arXiv 1912.01588): 64x64 RGB, 15 actions."""

    def __init__(self, described: Metadata, num_envs: int, levels: tuple[int, int], seed: int):
        super().__init__(described, num_envs)
        # Levels of CoinRun and Ninja are crossed from left to right; all else is explored evenly.
        lean = {"RIGHT": 3.0} if self.name in ("coinrun", "ninja") else {}
        self.explore_weights = np.zeros(len(self.actions))
        for action in self.actions.acting:
            self.explore_weights[action] = np.prod([lean.get(key, 1.0) for key in self.actions.keys[action]])
        if lean:
            self.explore_weights[self.actions.noop] = 0.5
        first, count = levels
        simple = self.options["simple"]
        self._game = _procgen().ProcgenGym3Env(
            num=num_envs,
            env_name=self.name,
            start_level=first,
            num_levels=count,
            rand_seed=seed,
            distribution_mode=self.options["distribution_mode"],
            use_backgrounds=not simple,
            use_monochrome_assets=simple,
            restrict_themes=simple,
            num_threads=0,  # collection runs a process a core
        )
        self._level_seeds = self._read_level_seeds()

    def reset(self, *, seed=None, options=None):
        """The first frames. Procgen cannot go back: this is for the start only, and `seed` belongs in the maker."""
        _, observation, _ = self._game.observe()
        return observation["rgb"].copy(), self._info()

    def step(self, actions):
        self._game.act(np.asarray(actions, np.int32))
        rewards, observation, first = self._game.observe()
        if first.any():
            self._level_seeds = self._read_level_seeds()
        # Procgen does not tell a timeout from an end: both count as the end of the episode.
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


def _procgen():
    """The procgen package, without the notice that its dependency gym prints when imported."""
    with contextlib.redirect_stderr(io.StringIO()):
        import procgen
    return procgen
