"""Games that are stepped one after another, and whose state is how they got there."""

import struct
from typing import Any

import numpy as np
from PIL import Image

from dreamrun.games.base import GameVectorEnv
from dreamrun.games.game import Game
from dreamrun.games.splitmix import splitmix64_next

STATE_HEADER = struct.Struct("<qQ")  # level, state of the generator that draws levels


class ReplayedVectorEnv(GameVectorEnv):
    """N games, each reset by the number of its level as a seed.

    A saved state is the level, the current frame and the actions since the reset. To restore it the actions are played
    again, which costs as much as it did the first time. That needs a game in which nothing else is random: otherwise
    another frame comes out, and `set_state` raises.
    """

    def __init__(self, game: Game, num_envs: int, levels: tuple[int, int], seed: int):
        super().__init__(game, num_envs, levels)
        # The state of a SplitMix64 generator per game, which draws the levels.
        self._streams = np.arange(num_envs, dtype=np.uint64) + np.uint64(seed) * np.uint64(1 << 32)
        self.level_seeds = np.zeros(num_envs, np.int64)
        self._frames = np.zeros((num_envs, *game.frame_shape), np.uint8)
        self._action_dtype = np.int64 if self.actions.discrete else np.float32
        self._played: list[list] = [[] for _ in range(num_envs)]  # actions of each game since its reset
        self._open_games(game)
        for number in range(num_envs):
            self._start_level(number)

    def _open_games(self, game: Game) -> None:
        """Make the N games."""
        raise NotImplementedError

    def _begin(self, number: int, level_seed: int) -> np.ndarray:
        """Reset game `number`; returns its frame, uint8 RGB of any size."""
        raise NotImplementedError

    def _play(self, number: int, action: Any, show: bool = True) -> tuple[np.ndarray | None, float, bool, bool]:
        """Step game `number`: frame, reward, terminated, truncated. No frame after an end, or without `show`."""
        raise NotImplementedError

    def reset(self, *, seed=None, options=None):
        """Ignores `seed`: returns the current frames. `make_environment` takes the seed."""
        return self._frames.copy(), self.info()

    def step(self, actions):
        rewards = np.zeros(self.num_envs, np.float32)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        for number, action in enumerate(actions):
            frame, rewards[number], terminations[number], truncations[number] = self._play(number, action)
            self._played[number].append(action)
            if frame is None:
                self._start_level(number)
            else:
                self._set_frame(number, frame)
        return self._frames.copy(), rewards, terminations, truncations, self.info()

    def get_state(self) -> list[bytes]:
        """Of each game: header, current frame, and the actions since the reset."""
        return [
            STATE_HEADER.pack(int(level), int(stream))
            + frame.tobytes()
            + np.array(played, self._action_dtype).tobytes()
            for level, stream, frame, played in zip(
                self.level_seeds, self._streams, self._frames, self._played, strict=True
            )
        ]

    def set_state(self, states: list[bytes]) -> np.ndarray:
        frame_end = STATE_HEADER.size + self._frames[0].nbytes
        for number, state in enumerate(states):
            self.level_seeds[number], self._streams[number] = STATE_HEADER.unpack_from(state)
            actions = np.frombuffer(state[frame_end:], self._action_dtype).reshape(-1, *self.single_action_space.shape)
            self._played[number] = list(actions)
            frame = self._begin(number, int(self.level_seeds[number]))
            for step, action in enumerate(actions, start=1):
                frame = self._play(number, action, show=step == len(actions))[0]
            if frame is not None:
                self._set_frame(number, frame)
            if frame is None or self._frames[number].tobytes() != state[STATE_HEADER.size : frame_end]:
                raise ValueError(
                    f"{self.name} is not reproducible: the same level and actions lead to another frame, so its state "
                    "cannot be saved and restored"
                )
        return self._frames.copy()

    def _start_level(self, number: int) -> None:
        """Draw a new level for game `number` and reset it."""
        first, count = self._levels
        self._streams[number] = splitmix64_next(self._streams[number : number + 1])[0]
        self.level_seeds[number] = first + int(self._streams[number] % np.uint64(count))
        self._played[number] = []
        self._set_frame(number, self._begin(number, int(self.level_seeds[number])))

    def _set_frame(self, number: int, frame: np.ndarray) -> None:
        """Store a frame of any size, reduced by area to that of the game, as the current one of game `number`."""
        height, width = self._frames.shape[1:3]
        if frame.shape[:2] != (height, width):
            frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))
        self._frames[number] = frame
