"""OpenAI's Procgen games. They need Procgen only when one is made; their actions are known without it."""

import contextlib
import importlib.util
import io

import numpy as np

from dreamrun.games.base import GameVectorEnv
from dreamrun.games.game import Game, make_caption
from dreamrun.games.procgen_actions import PROCGEN_GAMES, procgen_actions


class ProcgenVectorEnv(GameVectorEnv):
    """N copies of one of the sixteen Procgen games (arXiv 1912.01588): 64x64 RGB, 15 actions."""

    option_names = ("distribution_mode", "simple")
    usage = f"one of Procgen's {', '.join(PROCGEN_GAMES)}"

    @classmethod
    def plays(cls, name: str) -> bool:
        return name in PROCGEN_GAMES

    @classmethod
    def describe(cls, name: str, distribution_mode: str = "easy", simple: bool = False) -> Game:
        """One of the sixteen games, in easy or hard levels; simple: no backgrounds, monochrome assets, one theme."""
        if distribution_mode not in ("easy", "hard"):
            raise ValueError(f'distribution_mode is {distribution_mode!r:.40}: choose "easy" or "hard"')
        if type(simple) is not bool:
            raise ValueError(f"simple is {simple!r:.40}: expected true or false")
        if importlib.util.find_spec("procgen") is None:
            raise ValueError(
                "Procgen is not installed: run ./setup.sh, or on Linux "
                "`pip install --no-deps procgen-mirror gym3 gym gym-notices cffi pycparser`, or choose env pong"
            )
        return Game(
            environment=name,
            environment_options=(("distribution_mode", distribution_mode), ("simple", simple)),
            actions=procgen_actions(name),
            caption=make_caption(
                name, PROCGEN_GAMES[name], f"{distribution_mode} levels", "simple graphics" if simple else ""
            ),
        )

    def __init__(self, game: Game, num_envs: int, levels: tuple[int, int], seed: int):
        super().__init__(game, num_envs, levels)
        # Levels of CoinRun and Ninja are crossed from left to right; other games are explored evenly.
        key_weights = {"RIGHT": 3.0} if self.name in ("coinrun", "ninja") else {}
        self.explore_weights = np.zeros(len(self.actions))
        for action in self.actions.acting:
            self.explore_weights[action] = np.prod([key_weights.get(key, 1.0) for key in self.actions.keys[action]])
        if key_weights:
            self.explore_weights[self.actions.noop] = 0.5
        first, count = levels
        simple = self.options["simple"]
        with contextlib.redirect_stderr(io.StringIO()):  # a notice of its dependency gym
            import procgen
        self._game = procgen.ProcgenGym3Env(
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
        self.level_seeds = self._read_level_seeds()

    def reset(self, *, seed=None, options=None):
        """Ignores `seed`: returns the current frames, as Procgen cannot be reset. `make_environment` takes the seed."""
        _, observation, _ = self._game.observe()
        return observation["rgb"].copy(), self.info()

    def step(self, actions):
        self._game.act(np.asarray(actions, np.int32))
        rewards, observation, first = self._game.observe()
        if first.any():
            self.level_seeds = self._read_level_seeds()
        # Procgen does not distinguish a timeout from an end: both count as termination.
        return observation["rgb"].copy(), rewards, first, np.zeros_like(first), self.info()

    def get_state(self) -> list[bytes]:
        return self._game.callmethod("get_state")

    def set_state(self, states: list[bytes]) -> np.ndarray:
        self._game.callmethod("set_state", states)
        self.level_seeds = self._read_level_seeds()
        return self._game.observe()[1]["rgb"].copy()

    def close_extras(self, **kwargs):
        self._game.close()

    def _read_level_seeds(self) -> np.ndarray:
        return np.array([info["level_seed"] for info in self._game.get_info()], np.int64)
