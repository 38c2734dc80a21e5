"""metadata.json: what a data set says of its game, frames and actions."""

from pathlib import Path
from typing import Any

from dreamrun.games.game import Game, check_frame_shape
from dreamrun.games.procgen_actions import PROCGEN_GAMES, procgen_actions
from dreamrun.games.ranges import Range
from dreamrun.games.space import MAX_NAMES, unnamed_actions
from dreamrun.games.untrusted import read_json
from dreamrun.shipped import find_shipped

METADATA_FILE = "metadata.json"
PUBLIC_SET = Game("coinrun", actions=procgen_actions("coinrun"))  # the public CoinRun set, which has no such file


def read_metadata(folder: Path) -> Game:
    """The game of a data set. Fields that are missing are those of the public set."""
    folder = find_dataset(folder)
    path = folder / METADATA_FILE
    if not path.is_file():
        return PUBLIC_SET
    try:
        values = read_json(path)
        game = Game.from_dict(values, _default_game(values))
        check_frame_shape(game.frame_shape)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is invalid: {error}") from None
    return game


def _default_game(values: dict[str, Any]) -> Game:
    """What an old metadata.json leaves out: the names of actions above all."""
    num_actions = values.get("num_actions", len(PUBLIC_SET.actions))
    Range(1, MAX_NAMES).check("num_actions", num_actions)
    environment = values.get("environment", values.get("env", PUBLIC_SET.environment))
    procgen = environment in PROCGEN_GAMES and num_actions == len(PUBLIC_SET.actions)
    actions = procgen_actions(environment) if procgen else unnamed_actions(num_actions)
    return Game(PUBLIC_SET.environment, actions=actions)


def find_dataset(folder: Path) -> Path:
    """The folder, or the shipped samples of that name. Raises ValueError if there is neither."""
    found = find_shipped(folder, "samples")
    if not found.is_dir():
        raise ValueError(f"no data set at {folder}: collect one with `dreamrun collect`")
    return found
