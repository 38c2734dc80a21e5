"""A small Pong."""

import numpy as np

from dreamrun.games.base import GameVectorEnv
from dreamrun.games.game import Game, make_caption, parse_size, picture_words
from dreamrun.games.space import ActionSpace
from dreamrun.games.splitmix import splitmix64_hash, splitmix64_next

MIN_SIDE = 32  # pixels


class PongVectorEnv(GameVectorEnv):
    """N copies of Pong, RGB. The player is the left paddle; the right one follows the ball, a little too slowly.

    A rally starts with a serve from the middle. An episode ends after three points, or after 1000 steps. It depends on
    the level's number and the actions alone.
    """

    option_names, usage = ("size",), "pong"
    paddle_height, ball_size, paddle_x = 12, 3, 4
    ball_speed, player_speed, opponent_speed = 2.0, 2.0, 1.4
    points_per_episode, max_steps = 3, 1000

    @classmethod
    def describe(cls, name: str, size: str | None = None) -> Game:
        """Pong with frames of width x height pixels; None: 64x64, the size of data sets that do not say it."""
        width, height = parse_size("64x64" if size is None else size)
        if min(width, height) < MIN_SIDE:
            raise ValueError(f"size is {size!r:.40}: Pong needs at least {MIN_SIDE}x{MIN_SIDE}")
        return Game(
            environment=name,
            environment_options=(("size", size),) if size else (),
            frame_shape=(height, width, 3),
            actions=ActionSpace(names=("noop", "up", "down"), keys=((), ("UP",), ("DOWN",)), acting=(0, 1, 2)),
            caption=make_caption(name, "two paddles and a ball", picture_words(width, height)),
        )

    def __init__(self, game: Game, num_envs: int, levels: tuple[int, int], seed: int):
        super().__init__(game, num_envs, levels)
        self._height, self._width, _ = game.frame_shape
        # One row per game. It includes the states of two SplitMix64 generators, which draw levels and serves.
        self._state = np.zeros(
            num_envs,
            dtype=[
                *(("level_stream", "u8"), ("serve_stream", "u8"), ("level_seed", "i8"), ("steps", "i4")),
                *(("points", "i4"), ("ball", "f8", 2), ("velocity", "f8", 2), ("player", "f8"), ("opponent", "f8")),
            ],
        )
        self._state["level_stream"] = splitmix64_hash(
            np.arange(num_envs, dtype=np.uint64) + np.uint64(seed) * np.uint64(1 << 32)
        )
        self._start_level(np.ones(num_envs, bool))

    def reset(self, *, seed=None, options=None):
        return self._render(), self.info()

    def step(self, actions):
        state, height, width = self._state, self._height, self._width
        half = self.paddle_height / 2
        move = np.array([0.0, -1.0, 1.0])[np.asarray(actions)] * self.player_speed
        state["player"] = np.clip(state["player"] + move, half, height - half)
        follow = np.clip(state["ball"][:, 1] - state["opponent"], -self.opponent_speed, self.opponent_speed)
        state["opponent"] = np.clip(state["opponent"] + follow, half, height - half)

        ball, velocity = state["ball"], state["velocity"]
        ball += velocity
        margin = self.ball_size / 2
        low, high = ball[:, 1] < margin, ball[:, 1] > height - margin
        ball[:, 1] = np.where(low, 2 * margin - ball[:, 1], ball[:, 1])
        ball[:, 1] = np.where(high, 2 * (height - margin) - ball[:, 1], ball[:, 1])
        velocity[:, 1] = np.where(low | high, -velocity[:, 1], velocity[:, 1])

        face = self.paddle_x + margin  # x of the ball's middle when it touches the left paddle
        for paddle, reached, direction in (
            ("player", ball[:, 0] <= face, 1.0),
            ("opponent", ball[:, 0] >= width - face, -1.0),
        ):
            offset = (ball[:, 1] - state[paddle]) / (half + margin)
            hit = reached & (np.abs(offset) <= 1) & (velocity[:, 0] * direction < 0)
            velocity[:, 0] = np.where(hit, direction * self.ball_speed, velocity[:, 0])
            velocity[:, 1] = np.where(hit, offset * self.ball_speed, velocity[:, 1])
        lost, won = ball[:, 0] < 0, ball[:, 0] > width
        rewards = won.astype(np.float32) - lost.astype(np.float32)
        state["points"] += lost | won
        state["steps"] += 1
        self._serve(lost | won)
        terminations = state["points"] >= self.points_per_episode
        truncations = ~terminations & (state["steps"] >= self.max_steps)
        self._start_level(terminations | truncations)
        return self._render(), rewards, terminations, truncations, self.info()

    def get_state(self) -> list[bytes]:
        return [row.tobytes() for row in self._state]

    def set_state(self, states: list[bytes]) -> np.ndarray:
        self._state = np.frombuffer(b"".join(states), self._state.dtype).copy()
        return self._render()

    def suggested_actions(self) -> np.ndarray:
        """(N,) actions that follow the ball."""
        distance = self._state["ball"][:, 1] - self._state["player"]
        return np.where(np.abs(distance) < self.player_speed, 0, np.where(distance < 0, 1, 2))

    def _start_level(self, games: np.ndarray) -> None:
        """Draw a new level and serve in the games (N,) bool."""
        state, (first, count) = self._state, self._levels
        draw = splitmix64_next(state["level_stream"])
        state["level_stream"] = np.where(games, draw, state["level_stream"])
        state["level_seed"] = np.where(games, first + (draw % np.uint64(count)).astype(np.int64), state["level_seed"])
        state["serve_stream"] = np.where(
            games, splitmix64_hash(state["level_seed"].astype(np.uint64)), state["serve_stream"]
        )
        for name, value in (("points", 0), ("steps", 0), ("player", self._height / 2), ("opponent", self._height / 2)):
            state[name] = np.where(games, value, state[name])
        self._serve(games)

    def _serve(self, games: np.ndarray) -> None:
        """Put the ball in the middle of the games (N,) bool, moving left or right at a random angle."""
        state = self._state
        draw = splitmix64_next(state["serve_stream"])
        state["serve_stream"] = np.where(games, draw, state["serve_stream"])
        side = np.where(draw & np.uint64(1), 1.0, -1.0) * self.ball_speed
        slope = ((draw >> np.uint64(11)) / 2.0**53 * 2 - 1) * self.ball_speed
        middle = (self._width - 1) / 2, (self._height - 1) / 2
        state["ball"] = np.where(games[:, None], middle, state["ball"])
        state["velocity"] = np.where(games[:, None], np.stack((side, slope), -1), state["velocity"])

    @property
    def level_seeds(self) -> np.ndarray:
        return self._state["level_seed"]

    def _render(self) -> np.ndarray:
        state, height, width = self._state, self._height, self._width
        frames = np.empty((self.num_envs, height, width, 3), np.uint8)
        frames[:] = (16, 24, 48)
        frames[:, np.arange(height) % 8 < 4, width // 2 - 1 : width // 2 + 1] = (60, 70, 100)

        def span(middle, length, size):
            """(N, size) bool: the `length` pixels around each middle."""
            line, start = np.arange(size), np.round(middle - length / 2)[:, None]
            return (line >= start) & (line < start + length)

        for paddle, left, colour in (
            ("player", self.paddle_x - 2, (90, 220, 120)),
            ("opponent", width - self.paddle_x, (230, 110, 90)),
        ):
            frames[:, :, left : left + 2][span(state[paddle], self.paddle_height, height)] = colour
        columns, rows = (span(state["ball"][:, axis], self.ball_size, size) for axis, size in ((0, width), (1, height)))
        frames[rows[:, :, None] & columns[:, None]] = (250, 250, 240)
        return frames
