"""Make and describe games by name. Each kind of game is a class of its own: add it to KINDS."""

from collections.abc import Iterable, Mapping
from typing import Any

from dreamrun.games.atari import AtariVectorEnv
from dreamrun.games.base import SPLIT_LEVELS, GameVectorEnv
from dreamrun.games.doom import DoomVectorEnv
from dreamrun.games.game import Game
from dreamrun.games.gymnasium import GymVectorEnv, split_name
from dreamrun.games.pong import PongVectorEnv
from dreamrun.games.procgen import ProcgenVectorEnv

KINDS = (PongVectorEnv, GymVectorEnv, AtariVectorEnv, DoomVectorEnv, ProcgenVectorEnv)
MAX_LEVELS = 2**31
Options = Mapping[str, Any] | Iterable[tuple[str, Any]]


def make_environment(
    name: str,
    num_envs: int,
    levels: tuple[int, int] = SPLIT_LEVELS["train"],
    seed: int = 0,
    options: Options = (),
    import_modules: bool = False,
) -> GameVectorEnv:
    """Make N copies of a game by name: "pong", one of Procgen's sixteen, "gym:ID", "ale:GAME" or "doom:SCENARIO".

    Args:
        levels: first level and number of levels that episodes are drawn from.
        seed: of the draw.
        options: keyword arguments of `describe` of that kind of game; None for its default.
        import_modules: import MODULE for "gym:MODULE:ID". Only if the user typed the name; it may not be from a file.
    """
    return _make(describe_environment(name, options, import_modules), num_envs, levels, seed)


def open_recorded(
    game: Game, num_envs: int = 1, levels: tuple[int, int] = SPLIT_LEVELS["train"], seed: int = 0
) -> GameVectorEnv:
    """Make N copies of the game that a data set or a checkpoint describes. Arguments as for `make_environment`."""
    return _make(find_recorded(game), num_envs, levels, seed)


def find_recorded(game: Game) -> Game:
    """The game that a data set or a checkpoint describes, as it is installed: with frames and actions as recorded."""
    installed = describe_environment(game.environment, game.environment_options)
    found, expected = ((part.frame_shape, len(part.actions), part.actions.kinds) for part in (installed, game))
    if found != expected:
        raise ValueError(f"the installed {game.environment} has another frame size or other actions than the data set")
    return installed


def describe_environment(name: str, options: Options = (), import_modules: bool = False) -> Game:
    """The description of a game. Does not start Procgen games, which takes two seconds."""
    kind = _kind_of(name)
    given = {option: value for option, value in dict(options).items() if value is not None}
    unknown = ", ".join(sorted(map(str, given.keys() - set(kind.option_names))))
    if unknown:
        raise ValueError(f"{name} has no option {unknown}: choose {' or '.join(kind.option_names)}")
    kind.check_name(name, import_modules)
    return kind.describe(name, **given)


def max_collected(name: str) -> int:
    """How many copies of a game are collected from at once."""
    return _kind_of(name).max_collected


def with_module(name: str, module: str | None) -> str:
    """A checked name from a file, with the module that the user typed, so that worker processes can import it too."""
    _kind_of(name).check_name(name)
    return f"gym:{module}:{split_name(name)[1]}" if module and name.startswith("gym:") else name


def _make(game: Game, num_envs: int, levels: tuple[int, int], seed: int) -> GameVectorEnv:
    first, count = levels
    if first < 0 or count < 1 or first + count > MAX_LEVELS:  # Procgen would end the process
        raise ValueError(f"levels {first} to {first + count - 1}: they must lie in 0 to {MAX_LEVELS - 1}")
    return _kind_of(game.environment)(game, num_envs, levels, seed)


def _kind_of(name: str) -> type[GameVectorEnv]:
    for kind in KINDS:
        if kind.plays(name):
            return kind
    raise ValueError(f"unknown environment {name!r:.80}: choose {' or '.join(kind.usage for kind in KINDS)}")
