"""Make and describe games by name: "pong", Procgen's, "gym:ID" and "ale:GAME"."""

from __future__ import annotations

import importlib.util

from data.actions import ActionSpace
from data.games.atari import AtariVectorEnv
from data.games.base import SPLIT_LEVELS, GameVectorEnv
from data.games.gymnasium import GymVectorEnv
from data.games.pong import PongVectorEnv
from data.games.procgen import ProcgenVectorEnv
from data.games.procgen_actions import PROCGEN_GAMES, procgen_actions
from data.metadata import Metadata


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
    """Make N copies of a game by name: "pong", one of Procgen's sixteen, "gym:ID" or "ale:GAME".

    Args:
        num_envs: N.
        levels: first level and number of levels that episodes are drawn from.
        seed: of the draw.
        distribution_mode: "easy" or "hard" levels (Procgen).
        simple: no backgrounds, monochrome assets, one theme (Procgen).
        frame_skip: steps of the game for which an action is held (gym and ale); None: 4 for Atari, else 1.
        size: width x height of a frame (gym and ale); None: "64x64".

    Raises:
        ValueError: the game is unknown or not installed, or an option is invalid.
    """
    game_metadata = describe_environment(name, distribution_mode, simple, frame_skip, size)
    if name.startswith(("gym:", "ale:")):
        env_class = AtariVectorEnv if name.startswith("ale:") else GymVectorEnv
    else:
        env_class = PongVectorEnv if name == "pong" else ProcgenVectorEnv
    return env_class(game_metadata, num_envs, levels, seed)


def describe_environment(
    name: str,
    distribution_mode: str = "easy",
    simple: bool = False,
    frame_skip: int | None = None,
    size: str | None = None,
) -> Metadata:
    """The metadata of a game's data sets. Does not start Procgen games, which takes two seconds.

    Raises:
        ValueError: as `make_environment`.
    """
    if distribution_mode not in ("easy", "hard"):
        raise ValueError(f'distribution_mode is {distribution_mode!r}: choose "easy" or "hard"')
    if name.startswith(("gym:", "ale:")):
        env_class = AtariVectorEnv if name.startswith("ale:") else GymVectorEnv
        return env_class.describe(name, frame_skip or env_class.default_frame_skip, size or "64x64")
    if frame_skip is not None or size is not None:
        raise ValueError(f"frame_skip and size are for gym: and ale: games only: {name} always has 64x64 frames")
    if name == "pong":
        actions = ActionSpace(names=("noop", "up", "down"), keys=((), ("UP",), ("DOWN",)), acting=(0, 1, 2))
        return Metadata(environment=name, actions=actions)
    if name not in PROCGEN_GAMES:
        games = ", ".join(PROCGEN_GAMES)
        raise ValueError(f"unknown environment {name!r}: choose pong or gym:ID or ale:GAME or one of Procgen's {games}")
    if importlib.util.find_spec("procgen") is None:
        raise ValueError("Procgen is not installed: run ./setup.sh, or choose env pong")
    options = (("distribution_mode", distribution_mode), ("simple", simple))
    return Metadata(environment=name, environment_options=options, actions=procgen_actions(name))
