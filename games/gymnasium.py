"""Any Gymnasium environment that renders RGB frames: `gym:ID`.

A level is the seed of a reset, so an episode can be replayed if nothing else in the game is random.

A name may come from a file of a stranger. So no name makes Gymnasium import a module, unless the user typed the name of
that module: `gym:MODULE:ID` with `import_modules`, or any name of it after `import_environment_module(MODULE)`.
"""

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from dreamrun.games.game import Game, make_caption, parse_size, picture_words
from dreamrun.games.ranges import Range
from dreamrun.games.replayed import ReplayedVectorEnv
from dreamrun.games.space import ActionSpace, unnamed_actions

FRAME_SKIP_RANGE = Range(1, 100)
# ID of Gymnasium: [namespace/]name[-version]. A colon would separate a module from it.
_NAME = re.compile(r"gym:(?:(?P<module>[A-Za-z_][\w.]{0,199}):)?(?P<id>(?:[\w-]{1,100}/)?[\w.-]{1,100})", re.ASCII)
_typed_modules: set[str] = set()  # that the user has named, and WAD files


def import_environment_module(module: str | None) -> None:
    """Import a module that registers environments, or permit a WAD (doom:) to be opened. The user typed its name."""
    if not module:
        return
    try:
        if not module.lower().endswith(".wad"):
            importlib.import_module(module)
    except Exception as error:  # the code of a foreign module can raise anything
        raise ValueError(f"the module {module!r} cannot be imported: {type(error).__name__}: {error}") from None
    _typed_modules.add(module)


def is_typed(module: str) -> bool:
    """Whether the user has typed the name of this module or WAD file."""
    return module in _typed_modules


def split_name(name: str) -> tuple[str | None, str]:
    """ "gym:MODULE:ID" -> MODULE, None if there is none, and ID. Raises ValueError for another name."""
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r:.80} is not the name of a Gymnasium environment, gym:ID or gym:MODULE:ID")
    return match["module"], match["id"]


class GymVectorEnv(ReplayedVectorEnv):
    """N copies of `gym:ID`."""

    option_names, usage = ("frame_skip", "size"), "gym:ID"
    default_frame_skip = 1  # steps of the game for which an action is held
    num_max_frames = 1  # a frame is the pixel-wise maximum of this many last frames of a step

    @classmethod
    def check_name(cls, name: str, import_modules: bool = False) -> None:
        module, env_id = split_name(name)
        if import_modules:
            return import_environment_module(module)
        if module and not is_typed(module):
            raise ValueError(
                f"{name} needs the Python module {module}, which is not imported because a file names it: "
                f"if you trust it, type its name: --env-module {module}, or of an agent --game {name}"
            )
        if env_id not in gymnasium.registry and env_id not in {re.sub(r"-v\d+$", "", n) for n in gymnasium.registry}:
            raise ValueError(
                f"cannot play gym:{env_id}: no environment {env_id} is registered: name its module, gym:MODULE:ID"
            )

    @classmethod
    def describe(cls, name: str, frame_skip: int | None = None, size: str = "64x64") -> Game:
        """The game of that name, which holds each action for `frame_skip` steps (None: 4 for Atari, else 1)."""
        frame_skip = cls.default_frame_skip if frame_skip is None else frame_skip
        FRAME_SKIP_RANGE.check("frame_skip", frame_skip)
        width, height = parse_size(size)
        game = cls.make_game(name)
        try:
            return Game(
                environment=name,
                environment_options=(("frame_skip", frame_skip), ("size", size)),
                frame_shape=(height, width, 3),
                fps=round(cls.read_fps(game) / frame_skip, 3),
                actions=cls.read_actions(name, game),
                caption=make_caption(name.partition(":")[2], picture_words(width, height)),
            )
        finally:
            game.close()

    @staticmethod
    def make_game(name: str) -> gymnasium.Env:
        """Make one copy of the game. Raises ValueError as `describe` does."""
        return make_and_check(name, name.rpartition(":")[2])  # without its module, which is imported already

    @staticmethod
    def read_fps(game: gymnasium.Env) -> float:
        """Frames per second without frame skip."""
        return float(game.metadata.get("render_fps") or 30)

    @staticmethod
    def read_actions(name: str, game: gymnasium.Env) -> ActionSpace:
        """The action space of the game. Raises ValueError if it cannot be recorded."""
        space = game.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            actions = unnamed_actions(int(space.n))
            meanings = [str(meaning).lower() for meaning in getattr(game.unwrapped, "get_action_meanings", tuple)()]
            return replace(actions, names=tuple(meanings)) if len(set(meanings)) == space.n else actions
        if isinstance(space, gymnasium.spaces.MultiBinary) and len(space.shape) == 1:
            return _vector_space("button", space.shape[0])
        if isinstance(space, gymnasium.spaces.MultiDiscrete) and len(space.shape) == 1:
            return _vector_space("button", int(space.nvec.sum()) - len(space.nvec))
        if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
            return _vector_space("axis", space.shape[0])
        raise ValueError(
            f"cannot record the actions of {name}: {space} is not Discrete, or of one dimension and MultiBinary, "
            "MultiDiscrete or Box"
        )

    def _open_games(self, game: Game) -> None:
        self._frame_skip = self.options["frame_skip"]
        self._games = [self.make_game(game.environment) for _ in range(self.num_envs)]
        self._to_game_action = _action_converter(self._games[0].action_space)

    def _begin(self, number: int, level_seed: int) -> np.ndarray:
        self._games[number].reset(seed=level_seed)
        return self._games[number].render()

    def _play(self, number: int, action: Any, show: bool = True) -> tuple[np.ndarray | None, float, bool, bool]:
        game, action, rendered, total = self._games[number], self._to_game_action(action), [], np.float32(0)
        for skipped in range(self._frame_skip):
            _, reward, terminated, truncated, _ = game.step(action)
            total = np.float32(total + reward)
            if terminated or truncated:
                return None, total, terminated, truncated
            if show and skipped >= self._frame_skip - self.num_max_frames:
                rendered.append(game.render())
        return np.maximum.reduce(rendered) if show else None, total, False, False

    def close_extras(self, **kwargs):
        for game in self._games:
            game.close()


def make_and_check(name: str, game_id: str, **options: Any) -> gymnasium.Env:
    """`gymnasium.make(game_id, **options)`, checked by a reset and a rendered frame."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame then renders into memory and needs no screen
    try:
        game = gymnasium.make(game_id, render_mode="rgb_array", disable_env_checker=True, **options)
        game.reset(seed=0)
        frame = game.render()
    except Exception as error:  # a foreign environment can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot play {name}: {reason}") from None
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,):
        game.close()
        raise ValueError(f"cannot play {name}: it does not render uint8 RGB frames")
    return game


def _vector_space(kind: str, count: int) -> ActionSpace:
    """A space of `count` buttons or axes without keys."""
    return ActionSpace(
        names=tuple(f"{kind}{i}" for i in range(count)),
        keys=((),) * count,
        acting=tuple(range(count)),
        kinds=(kind,) * count,
        scales=(1.0,) * count,
    )


def _action_converter(space: gymnasium.Space) -> Callable[[Any], Any]:
    """A function from recorded actions to the game's. An axis from -1 to 1 is scaled to the range of the Box."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return lambda action: int(action) + int(space.start)
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return lambda action: (np.asarray(action) > 0.5).astype(space.dtype)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return lambda action: _pressed_values(np.asarray(action) > 0.5, space)
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
    return lambda action: (low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)).astype(space.dtype)


def _pressed_values(pressed: np.ndarray, space: gymnasium.spaces.MultiDiscrete) -> np.ndarray:
    """The values that buttons choose, which exclude each other within a value: the first one that is pressed counts.

    A value of n choices has n - 1 buttons. Without any of them it is its first choice.
    """
    groups = np.split(pressed, np.cumsum(space.nvec - 1)[:-1])
    chosen = [1 + int(group.argmax()) if group.any() else 0 for group in groups]
    return (np.array(chosen) + space.start).astype(space.dtype)
