"""The real games that episodes are collected from, in the shape of Gymnasium's vector environments.

Shapes: N games stepped together, frames uint8 (N, H, W, C).
A game that ends starts anew in the same step (`AutoresetMode.SAME_STEP`): the observation is then the next
episode's first frame, while the reward still belongs to the episode that ended.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from data.actions import PROCGEN_GAMES, ActionSpace, procgen_actions
from data.shards import Metadata

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


def make_environment(
    name: str,
    num_envs: int,
    levels: tuple[int, int] = SPLIT_LEVELS["train"],
    seed: int = 0,
    distribution_mode: str = "easy",
    simple: bool = False,
    frame_skip: int | None = None,
    size: str | None = None,
) -> GameVectorEnv:
    """A game by name: "pong", one of Procgen's sixteen, "gym:ID" or "ale:GAME".

    Args:
        levels: first level and number of levels that the games draw from.
        seed: which of them are drawn.
        distribution_mode: "easy" or "hard" levels (Procgen).
        simple: no backgrounds, monochrome assets, one theme (Procgen).
        frame_skip: steps of the game that an action is held for (gym and ale); None: 4 for Atari, else 1.
        size: width x height of a frame (gym and ale); None: "64x64".

    Raises:
        ValueError: no such game, or it is not installed.
    """
    described = describe_environment(name, distribution_mode, simple, frame_skip, size)
    if name.startswith(("gym:", "ale:")):
        from data.gym_games import AtariVectorEnv, GymVectorEnv

        kind = AtariVectorEnv if name.startswith("ale:") else GymVectorEnv
    else:
        kind = PongVectorEnv if name == "pong" else ProcgenVectorEnv
    return kind(described, num_envs, levels, seed)


def describe_environment(
    name: str,
    distribution_mode: str = "easy",
    simple: bool = False,
    frame_skip: int | None = None,
    size: str | None = None,
) -> Metadata:
    """What a game's data sets say of it, without starting it (Procgen takes two seconds to).

    Raises:
        ValueError: as `make_environment`.
    """
    if distribution_mode not in ("easy", "hard"):
        raise ValueError(f'distribution_mode is {distribution_mode!r}: choose "easy" or "hard"')
    if name.startswith(("gym:", "ale:")):
        from data.gym_games import describe_gym_game  # it builds on what stands here

        return describe_gym_game(name, frame_skip or (4 if name.startswith("ale:") else 1), size or "64x64")
    if frame_skip is not None or size is not None:
        raise ValueError(f"frame_skip and size are for gym: and ale: games: {name} is played as it is, at 64x64")
    if name == "pong":
        actions = ActionSpace(names=("stay", "up", "down"), keys=((), ("UP",), ("DOWN",)), acting=(0, 1, 2))
        return Metadata(environment=name, actions=actions)
    if name not in PROCGEN_GAMES:
        games = ", ".join(PROCGEN_GAMES)
        raise ValueError(f"unknown environment {name!r}: choose pong or gym:ID or ale:GAME or one of Procgen's {games}")
    if importlib.util.find_spec("procgen") is None:
        raise ValueError("Procgen is not installed: run ./setup.sh, or use --env pong")
    options = (("distribution_mode", distribution_mode), ("simple", simple))
    return Metadata(environment=name, environment_options=options, actions=procgen_actions(name))


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
            self.explore_weights[self.actions.stay] = 0.5
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


class PongVectorEnv(GameVectorEnv):
    """A small Pong of our own: the player is the left paddle, the right one follows the ball, not quite fast enough.

    64x64 RGB. A rally starts with a serve from the middle; an episode is three points, or 1 000 steps at most.
    Everything that happens follows from the level's number and the actions.
    """

    size, paddle_height, ball_size, paddle_x = 64, 12, 3, 4
    ball_speed, player_speed, opponent_speed = 2.0, 2.0, 1.4
    points_an_episode, max_steps = 3, 1000

    def __init__(self, described: Metadata, num_envs: int, levels: tuple[int, int], seed: int):
        super().__init__(described, num_envs)
        self._levels = levels
        # One row a game. Random streams are 64-bit counters, hashed: copied with the state, stepped in a batch.
        self._state = np.zeros(
            num_envs,
            dtype=[
                *(("level_stream", "u8"), ("serve_stream", "u8"), ("level_seed", "i8"), ("steps", "i4")),
                *(("points", "i4"), ("ball", "f8", 2), ("velocity", "f8", 2), ("player", "f8"), ("opponent", "f8")),
            ],
        )
        self._state["level_stream"] = _hash(np.arange(num_envs, dtype=np.uint64) + np.uint64(seed) * np.uint64(1 << 32))
        self._start(np.ones(num_envs, bool))

    def reset(self, *, seed=None, options=None):
        return self._render(), self._info()

    def step(self, actions):
        state, middle = self._state, (self.size - 1) / 2
        half = self.paddle_height / 2
        move = np.array([0.0, -1.0, 1.0])[np.asarray(actions)] * self.player_speed
        state["player"] = np.clip(state["player"] + move, half, self.size - half)
        follow = np.clip(state["ball"][:, 1] - state["opponent"], -self.opponent_speed, self.opponent_speed)
        state["opponent"] = np.clip(state["opponent"] + follow, half, self.size - half)

        ball, velocity = state["ball"], state["velocity"]
        ball += velocity
        margin = self.ball_size / 2
        low, high = ball[:, 1] < margin, ball[:, 1] > self.size - margin
        ball[:, 1] = np.where(low, 2 * margin - ball[:, 1], ball[:, 1])
        ball[:, 1] = np.where(high, 2 * (self.size - margin) - ball[:, 1], ball[:, 1])
        velocity[:, 1] = np.where(low | high, -velocity[:, 1], velocity[:, 1])

        face = self.paddle_x + margin  # where the ball's middle is when it touches a paddle
        for paddle, beyond, direction in (
            ("player", ball[:, 0] <= face, 1.0),
            ("opponent", ball[:, 0] >= self.size - face, -1.0),
        ):
            offset = (ball[:, 1] - state[paddle]) / (half + margin)
            hit = beyond & (np.abs(offset) <= 1) & (velocity[:, 0] * direction < 0)
            velocity[:, 0] = np.where(hit, direction * self.ball_speed, velocity[:, 0])
            velocity[:, 1] = np.where(hit, offset * self.ball_speed, velocity[:, 1])
        lost, won = ball[:, 0] < 0, ball[:, 0] > self.size
        rewards = won.astype(np.float32) - lost.astype(np.float32)
        state["points"] += lost | won
        state["steps"] += 1
        self._serve(lost | won, middle)
        terminations = state["points"] >= self.points_an_episode
        truncations = ~terminations & (state["steps"] >= self.max_steps)
        self._start(terminations | truncations)
        return self._render(), rewards, terminations, truncations, self._info()

    def get_state(self) -> list[bytes]:
        return [row.tobytes() for row in self._state]

    def set_state(self, states: list[bytes]) -> np.ndarray:
        self._state = np.frombuffer(b"".join(states), self._state.dtype).copy()
        return self._render()

    def suggested_actions(self) -> np.ndarray:
        """Follow the ball."""
        distance = self._state["ball"][:, 1] - self._state["player"]
        return np.where(np.abs(distance) < self.player_speed, 0, np.where(distance < 0, 1, 2))

    def _start(self, games: np.ndarray) -> None:
        """A new level in those games, drawn from each one's stream."""
        state, (first, count) = self._state, self._levels
        draw = advance(state["level_stream"])
        state["level_stream"] = np.where(games, draw, state["level_stream"])
        state["level_seed"] = np.where(games, first + (draw % np.uint64(count)).astype(np.int64), state["level_seed"])
        state["serve_stream"] = np.where(games, _hash(state["level_seed"].astype(np.uint64)), state["serve_stream"])
        for name, value in (("points", 0), ("steps", 0), ("player", self.size / 2), ("opponent", self.size / 2)):
            state[name] = np.where(games, value, state[name])
        self._serve(games, (self.size - 1) / 2)

    def _serve(self, games: np.ndarray, middle: float) -> None:
        """The ball in the middle, going left or right at a random angle."""
        state = self._state
        draw = advance(state["serve_stream"])
        state["serve_stream"] = np.where(games, draw, state["serve_stream"])
        side = np.where(draw & np.uint64(1), 1.0, -1.0) * self.ball_speed
        slope = ((draw >> np.uint64(11)) / 2.0**53 * 2 - 1) * self.ball_speed
        state["ball"] = np.where(games[:, None], middle, state["ball"])
        state["velocity"] = np.where(games[:, None], np.stack((side, slope), -1), state["velocity"])

    def _info(self) -> dict[str, Any]:
        return {"level_seed": self._state["level_seed"].copy()}

    def _render(self) -> np.ndarray:
        state, line = self._state, np.arange(self.size)
        frames = np.empty((self.num_envs, self.size, self.size, 3), np.uint8)
        frames[:] = (16, 24, 48)
        frames[:, line % 8 < 4, self.size // 2 - 1 : self.size // 2 + 1] = (60, 70, 100)

        def span(middle, length):
            """(N, size) True on the `length` pixels around each middle."""
            start = np.round(middle - length / 2)[:, None]
            return (line >= start) & (line < start + length)

        for paddle, left, colour in (
            ("player", self.paddle_x - 2, (90, 220, 120)),
            ("opponent", self.size - self.paddle_x, (230, 110, 90)),
        ):
            rows = span(state[paddle], self.paddle_height)
            columns = (line >= left) & (line < left + 2)
            frames[rows[:, :, None] & columns[None, None, :]] = colour
        columns, rows = (span(state["ball"][:, axis], self.ball_size) for axis in (0, 1))
        frames[rows[:, :, None] & columns[:, None]] = (250, 250, 240)
        return frames


def _hash(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al., 2014): uint64 -> well mixed uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def advance(stream: np.ndarray) -> np.ndarray:
    """The next number of each stream, which is also its next state."""
    return _hash(stream + np.uint64(0x9E3779B97F4A7C15))
