"""Make and describe games by name: "pong", Procgen's, "gym:ID" and "ale:GAME".

A name may come from a file of a stranger. So no name makes Gymnasium import a module, unless the user typed the name of
that module: `gym:MODULE:ID` with `import_modules`, or any name of it after `import_environment_module(MODULE)`.
"""

import importlib
import importlib.util
import re
from typing import Any

import gymnasium

from dreamrun.games.atari import AtariVectorEnv
from dreamrun.games.base import SPLIT_LEVELS, GameVectorEnv
from dreamrun.games.game import Game, parse_size
from dreamrun.games.gymnasium import GymVectorEnv
from dreamrun.games.pong import PongVectorEnv
from dreamrun.games.procgen import ProcgenVectorEnv
from dreamrun.games.procgen_actions import PROCGEN_GAMES, procgen_actions
from dreamrun.games.space import ActionSpace

# ID of Gymnasium: [namespace/]name[-version]. A colon would separate a module from it.
_GYM_NAME = re.compile(r"gym:(?:(?P<module>[A-Za-z_][\w.]{0,199}):)?(?P<id>(?:[\w-]{1,100}/)?[\w.-]{1,100})", re.ASCII)
_ATARI_NAME = re.compile(r"ale:[A-Za-z0-9_]{1,64}")
MAX_FRAME_SKIP = 100
MIN_PONG_SIDE = 32  # pixels
MAX_LEVELS = 2**31
OPTIONS = ("distribution_mode", "simple", "frame_skip", "size")  # what `environment_options` may hold
_typed_modules: set[str] = set()  # that the user has named


def import_environment_module(module: str | None) -> None:
    """Import a module that registers environments with Gymnasium. The user must have typed its name.

    Raises:
        ValueError: there is no such module, or it cannot be imported.
    """
    if not module:
        return
    try:
        importlib.import_module(module)
    except Exception as error:  # the code of a foreign module can raise anything
        raise ValueError(f"env_module {module!r} cannot be imported: {type(error).__name__}: {error}") from None
    _typed_modules.add(module)


def check_recorded_name(name: str) -> None:
    """Check the name of an environment that a file gives. It imports nothing.

    Raises:
        ValueError: it is malformed, or it is of Gymnasium and not registered.
    """
    if name.startswith("ale:") and not _ATARI_NAME.fullmatch(name):
        raise ValueError(f"{name!r:.80} is not the name of an Atari game")
    if not name.startswith("gym:"):
        return  # Atari and built-in games are looked up by name, and nothing else is made
    module, env_id = _split_gym_name(name)
    if module and module not in _typed_modules:
        raise ValueError(
            f"{name} needs the Python module {module}, which is not imported because a file names it: "
            "if you trust it, set env_module to its name"
        )
    if env_id not in gymnasium.registry and env_id not in {
        re.sub(r"-v\d+$", "", known) for known in gymnasium.registry
    }:
        raise ValueError(
            f"cannot play gym:{env_id}: no environment {env_id} is registered; set env_module to its module"
        )


def _split_gym_name(name: str) -> tuple[str | None, str]:
    """ "gym:MODULE:ID" -> MODULE, None if there is none, and ID. Raises ValueError for another name."""
    match = _GYM_NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r:.80} is not the name of a Gymnasium environment, gym:ID or gym:MODULE:ID")
    return match["module"], match["id"]


def with_module(name: str, module: str | None) -> str:
    """A checked name from a file, with the module that the user typed, so that worker processes can import it too."""
    check_recorded_name(name)
    return f"gym:{module}:{_split_gym_name(name)[1]}" if module and name.startswith("gym:") else name


def check_recorded_options(options: Any) -> dict[str, Any]:
    """The environment options that a file gives, as keyword arguments of `make_environment`.

    Raises:
        ValueError: an option is unknown or has a value that it cannot have.
    """
    options = dict(options)
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise ValueError(f"unknown environment options: {', '.join(map(str, unknown))}")
    return options


def make_environment(
    name: str,
    num_envs: int,
    levels: tuple[int, int] = SPLIT_LEVELS["train"],
    seed: int = 0,
    distribution_mode: str = "easy",
    simple: bool = False,
    frame_skip: int | None = None,
    size: str | None = None,
    import_modules: bool = False,
) -> GameVectorEnv:
    """Make N copies of a game by name: "pong", one of Procgen's sixteen, "gym:ID" or "ale:GAME".

    Args:
        num_envs: N.
        levels: first level and number of levels that episodes are drawn from.
        seed: of the draw.
        distribution_mode: "easy" or "hard" levels (Procgen).
        simple: no backgrounds, monochrome assets, one theme (Procgen).
        frame_skip: steps of the game for which an action is held (gym and ale); None: 4 for Atari, else 1.
        size: width x height of a frame (pong, gym and ale); None: "64x64".
        import_modules: import MODULE for "gym:MODULE:ID". Only if the user typed the name; it may not be from a file.

    Raises:
        ValueError: the game is unknown or not installed, or an option or a level is invalid.
    """
    first, count = levels
    if first < 0 or count < 1 or first + count > MAX_LEVELS:  # Procgen would end the process
        raise ValueError(f"levels {first} to {first + count - 1}: they must lie in 0 to {MAX_LEVELS - 1}")
    game = describe_environment(name, distribution_mode, simple, frame_skip, size, import_modules)
    if name.startswith(("gym:", "ale:")):
        env_class = AtariVectorEnv if name.startswith("ale:") else GymVectorEnv
    else:
        env_class = PongVectorEnv if name == "pong" else ProcgenVectorEnv
    return env_class(game, num_envs, levels, seed)


def describe_environment(
    name: str,
    distribution_mode: str = "easy",
    simple: bool = False,
    frame_skip: int | None = None,
    size: str | None = None,
    import_modules: bool = False,
) -> Game:
    """The description of a game. Does not start Procgen games, which takes two seconds.

    Raises:
        ValueError: as `make_environment`.
    """
    if distribution_mode not in ("easy", "hard"):
        raise ValueError(f'distribution_mode is {distribution_mode!r}: choose "easy" or "hard"')
    if type(simple) is not bool:
        raise ValueError(f"simple is {simple!r:.40}: expected true or false")
    if frame_skip is not None and (type(frame_skip) is not int or not 1 <= frame_skip <= MAX_FRAME_SKIP):
        raise ValueError(f"frame_skip is {frame_skip!r:.40}: it must be in 1 to {MAX_FRAME_SKIP}")
    if name.startswith("gym:") and import_modules:
        _import_typed_module(name)
    else:
        check_recorded_name(name)
    if name.startswith(("gym:", "ale:")):
        env_class = AtariVectorEnv if name.startswith("ale:") else GymVectorEnv
        return env_class.describe(name, frame_skip or env_class.default_frame_skip, size or "64x64")
    if frame_skip is not None:
        raise ValueError(f"frame_skip is for gym: and ale: games only, and {name} is none")
    if name == "pong":
        return _describe_pong(size)
    if size is not None:
        raise ValueError(f"size is for pong, gym: and ale: games only: {name} always has 64x64 frames")
    if name not in PROCGEN_GAMES:
        games = ", ".join(PROCGEN_GAMES)
        raise ValueError(
            f"unknown environment {name!r:.80}: choose pong or gym:ID or ale:GAME or one of Procgen's {games}"
        )
    if importlib.util.find_spec("procgen") is None:
        raise ValueError(
            "Procgen is not installed: run ./setup.sh, or on Linux "
            "`pip install --no-deps procgen-mirror gym3 gym gym-notices cffi pycparser`, or choose env pong"
        )
    options = (("distribution_mode", distribution_mode), ("simple", simple))
    return Game(environment=name, environment_options=options, actions=procgen_actions(name))


def _describe_pong(size: str | None) -> Game:
    actions = ActionSpace(names=("noop", "up", "down"), keys=((), ("UP",), ("DOWN",)), acting=(0, 1, 2))
    if size is None:
        return Game(environment="pong", actions=actions)
    width, height = parse_size(size)
    if min(width, height) < MIN_PONG_SIDE:
        raise ValueError(f"size is {size!r:.40}: Pong needs at least {MIN_PONG_SIDE}x{MIN_PONG_SIDE}")
    return Game("pong", (("size", size),), (height, width, 3), actions=actions)


def _import_typed_module(name: str) -> None:
    """Import the module in a name "gym:MODULE:ID" that the user typed."""
    module, _ = _split_gym_name(name)
    try:
        import_environment_module(module)
    except ValueError as error:
        raise ValueError(f"cannot play {name}: {error}") from None
