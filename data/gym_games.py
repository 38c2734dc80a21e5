"""Games by way of Gymnasium: any environment that draws itself (`gym:ID`), and Atari (`ale:GAME`).

They step one by one in a loop. A level is the seed of a reset: where nothing else matters, it can be replayed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from data.actions import ActionSpace, numbered
from data.environments import GameVectorEnv, advance
from data.shards import Metadata, parse_size

ATARI_FPS = 60.0
_ATARI_WORDS = {"UP": "up", "DOWN": "down", "LEFT": "left", "RIGHT": "right", "FIRE": "fire"}
_ATARI_KEYS = {"up": "UP", "down": "DOWN", "left": "LEFT", "right": "RIGHT", "fire": "SPACE"}
_BOOKKEEPING = struct.Struct("<qQ")  # of a saved state: level, stream of levels


def describe_gym_game(name: str, frame_skip: int, size: str) -> Metadata:
    """What a game's data sets say of it.

    Args:
        name: "gym:ID" or "ale:GAME".
        frame_skip: steps of the game that an action is held for.
        size: width x height of a frame, "64x64".

    Raises:
        ValueError: no such game, one that is not installed, or one whose actions or pictures cannot be recorded.
    """
    width, height = parse_size(size)
    game = _make(name)
    try:
        fps = ATARI_FPS if name.startswith("ale:") else float(game.metadata.get("render_fps") or 30)
        return Metadata(
            environment=name,
            environment_options=(("frame_skip", frame_skip), ("size", size)),
            frame_shape=(height, width, 3),
            fps=round(fps / frame_skip, 3),
            actions=_action_space(name, game),
        )
    finally:
        game.close()


class GymVectorEnv(GameVectorEnv):
    """N games of `gym:ID`."""

    def __init__(self, described: Metadata, num_envs: int, levels: tuple[int, int], seed: int):
        super().__init__(described, num_envs)
        self._frame_skip = self.options["frame_skip"]
        self._games = [_make(described.environment) for _ in range(num_envs)]
        self._convert = _converter(self._games[0].action_space)
        self._levels = levels
        # Streams of levels: 64-bit counters, hashed, one a game.
        self._streams = np.arange(num_envs, dtype=np.uint64) + np.uint64(seed) * np.uint64(1 << 32)
        self._level_seeds = np.zeros(num_envs, np.int64)
        height, width, _ = described.frame_shape
        self._frames = np.zeros((num_envs, height, width, 3), np.uint8)
        for game in range(num_envs):
            self._start(game)

    def reset(self, *, seed=None, options=None):
        """The first frames; `seed` belongs in the maker."""
        return self._frames.copy(), self._info()

    def step(self, actions):
        rewards = np.zeros(self.num_envs, np.float32)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        for number, game in enumerate(self._games):
            action, pictures = self._convert(actions[number]), []
            for skipped in range(self._frame_skip):
                _, reward, terminated, truncated, _ = game.step(action)
                rewards[number] += reward
                ended = terminated or truncated
                if ended or skipped >= self._frame_skip - self._num_pooled:
                    pictures.append(game.render())
                if ended:
                    break
            terminations[number], truncations[number] = terminated, truncated
            if ended:
                self._start(number)
            else:
                self._show(number, pictures)
        return self._frames.copy(), rewards, terminations, truncations, self._info()

    def get_state(self) -> list[bytes]:
        raise NotImplementedError(
            f"the state of {self.name} cannot be saved: Gymnasium has no word for it (pong, Procgen and ale: games can)"
        )

    def set_state(self, states: list[bytes]) -> np.ndarray:
        return self.get_state()

    def close_extras(self, **kwargs):
        for game in self._games:
            game.close()

    _num_pooled = 1  # pictures of a step that are shown over one another

    def _start(self, number: int) -> None:
        """A new level in that game, drawn from its stream."""
        first, count = self._levels
        self._streams[number] = advance(self._streams[number : number + 1])[0]
        self._level_seeds[number] = first + int(self._streams[number] % np.uint64(count))
        game = self._games[number]
        game.reset(seed=int(self._level_seeds[number]))
        self._show(number, [game.render()])

    def _show(self, number: int, pictures: list[np.ndarray]) -> None:
        picture = pictures[0] if len(pictures) == 1 else np.maximum.reduce(pictures)
        height, width = self._frames.shape[1:3]
        if picture.shape[:2] != (height, width):
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))
        self._frames[number] = picture

    def _info(self) -> dict[str, Any]:
        return {"level_seed": self._level_seeds.copy()}


class AtariVectorEnv(GymVectorEnv):
    """N games of `ale:GAME` (Arcade Learning Environment, arXiv 1207.4708), with no action repeated by chance.

    A frame shows the brighter of the last two of its pictures, as games draw some things in every other one.
    """

    _num_pooled = 2

    def get_state(self) -> list[bytes]:
        """Of each game its level, stream of levels, what it shows (ALE draws nothing when restored), and ALE's own."""
        ale_states = [game.unwrapped.ale.cloneState(include_rng=True).serialize() for game in self._games]
        return [
            _BOOKKEEPING.pack(int(level), int(stream)) + frame.tobytes() + ale_state
            for level, stream, frame, ale_state in zip(
                self._level_seeds, self._streams, self._frames, ale_states, strict=True
            )
        ]

    def set_state(self, states: list[bytes]) -> np.ndarray:
        from ale_py import ALEState

        frame_end = _BOOKKEEPING.size + self._frames[0].nbytes
        for number, (game, state) in enumerate(zip(self._games, states, strict=True)):
            self._level_seeds[number], self._streams[number] = _BOOKKEEPING.unpack_from(state)
            frame = np.frombuffer(state[_BOOKKEEPING.size : frame_end], np.uint8)
            self._frames[number] = frame.reshape(self._frames.shape[1:])
            game.unwrapped.ale.restoreState(ALEState(state[frame_end:]))
        return self._frames.copy()


def _make(name: str) -> gymnasium.Env:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory, and needs no screen for it
    kind, _, game_id = name.partition(":")
    options: dict[str, Any] = {"render_mode": "rgb_array", "disable_env_checker": True}
    if kind == "ale":
        try:
            import ale_py
        except ImportError:
            raise ValueError("ale-py is not installed: pip install -r requirements-atari.txt") from None
        gymnasium.register_envs(ale_py)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        game_id = f"ALE/{game_id[:1].upper()}{game_id[1:]}-v5"
        # What is seen comes from `render`: the observation is the cheapest there is.
        options |= {"obs_type": "ram", "frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}
    try:
        game = gymnasium.make(game_id, **options)
        game.reset(seed=0)
        picture = game.render()
    except Exception as error:  # whatever an environment of strangers raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot play {name}: {reason}") from None
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        game.close()
        raise ValueError(f"cannot play {name}: it does not draw itself as rgb_array")
    return game


def _action_space(name: str, game: gymnasium.Env) -> ActionSpace:
    space = game.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        num_actions = int(space.n)
        if name.startswith("ale:"):
            keys = [_atari_words(meaning) for meaning in game.unwrapped.get_action_meanings()]
            return ActionSpace(
                names=tuple("+".join(words) or "stay" for words in keys),
                keys=tuple(tuple(_ATARI_KEYS[word] for word in words) for words in keys),
                acting=tuple(range(num_actions)),
            )
        return numbered(num_actions)
    if isinstance(space, gymnasium.spaces.MultiBinary) and len(space.shape) == 1:
        return _controls("button", space.shape[0])
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return _controls("axis", space.shape[0])
    raise ValueError(f"cannot record the actions of {name}: {space} is neither one of several nor a row of numbers")


def _controls(kind: str, count: int) -> ActionSpace:
    return ActionSpace(
        names=tuple(f"{kind}{i}" for i in range(count)),
        keys=((),) * count,
        acting=tuple(range(count)),
        kinds=(kind,) * count,
        scales=(1.0,) * count,
    )


def _atari_words(meaning: str) -> list[str]:
    """ "UPRIGHTFIRE" -> ["up", "right", "fire"]."""
    words = []
    while meaning != "NOOP" and meaning:
        word = next(word for word in _ATARI_WORDS if meaning.startswith(word))
        words.append(_ATARI_WORDS[word])
        meaning = meaning[len(word) :]
    return words


def _converter(space: gymnasium.Space) -> Callable[[Any], Any]:
    """From recorded actions to those that a game takes; an axis from -1 to 1 goes over its whole range."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return lambda action: int(action) + int(space.start)
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return lambda action: (np.asarray(action) > 0.5).astype(space.dtype)
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
    return lambda action: (low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)).astype(space.dtype)
