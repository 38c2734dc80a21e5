"""Atari games by the Arcade Learning Environment: `ale:GAME`."""

import re

import gymnasium
import numpy as np

from dreamrun.games.gymnasium import GymVectorEnv, make_and_check
from dreamrun.games.replayed import STATE_HEADER
from dreamrun.games.space import ActionSpace

_KEYS = {"UP": "UP", "DOWN": "DOWN", "LEFT": "LEFT", "RIGHT": "RIGHT", "FIRE": "SPACE"}  # of words like UPRIGHTFIRE
_NAME = re.compile(r"ale:[A-Za-z0-9_]{1,64}")


class AtariVectorEnv(GymVectorEnv):
    """N copies of `ale:GAME` (Arcade Learning Environment, arXiv 1207.4708), without sticky actions.

    A frame is the maximum of the last two frames of a step, as games draw some objects in every other frame only.
    """

    usage = "ale:GAME"
    default_frame_skip = 4
    num_max_frames = 2

    @classmethod
    def check_name(cls, name: str, import_modules: bool = False) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} is not the name of an Atari game")

    @staticmethod
    def make_game(name: str) -> gymnasium.Env:
        try:
            import ale_py
        except ImportError:
            raise ValueError("ale-py is not installed: pip install 'dreamrun[atari]'") from None
        gymnasium.register_envs(ale_py)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        game = name.removeprefix("ale:")
        # Frames come from `render`, so the cheapest observation is enough.
        options = {"obs_type": "ram", "frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}
        return make_and_check(name, f"ALE/{game[:1].upper()}{game[1:]}-v5", **options)

    @staticmethod
    def read_fps(game: gymnasium.Env) -> float:
        return 60.0

    @staticmethod
    def read_actions(name: str, game: gymnasium.Env) -> ActionSpace:
        words_per_action = [re.findall("|".join(_KEYS), meaning) for meaning in game.unwrapped.get_action_meanings()]
        return ActionSpace(
            names=tuple("+".join(words).lower() or "noop" for words in words_per_action),
            keys=tuple(tuple(_KEYS[word] for word in words) for words in words_per_action),
            acting=tuple(range(len(words_per_action))),
        )

    def get_state(self) -> list[bytes]:
        """Of each game: header, current frame (ALE renders none after a restore), and the state of the emulator."""
        ale_states = [game.unwrapped.ale.cloneState(include_rng=True).serialize() for game in self._games]
        return [
            STATE_HEADER.pack(int(level), int(stream)) + frame.tobytes() + ale_state
            for level, stream, frame, ale_state in zip(
                self.level_seeds, self._streams, self._frames, ale_states, strict=True
            )
        ]

    def set_state(self, states: list[bytes]) -> np.ndarray:
        from ale_py import ALEState

        frame_end = STATE_HEADER.size + self._frames[0].nbytes
        for number, (game, state) in enumerate(zip(self._games, states, strict=True)):
            self.level_seeds[number], self._streams[number] = STATE_HEADER.unpack_from(state)
            frame = np.frombuffer(state[STATE_HEADER.size : frame_end], np.uint8)
            self._frames[number] = frame.reshape(self._frames.shape[1:])
            game.unwrapped.ale.restoreState(ALEState(state[frame_end:]))
        return self._frames.copy()
