"""metadata.json: what a data set says of its game, frames and actions."""

from pathlib import Path
from typing import Any

import numpy as np

from dreamrun.data.shards import SUFFIX, ShardReader
from dreamrun.games.game import Game, check_frame_shape
from dreamrun.games.procgen_actions import PROCGEN_GAMES, procgen_actions
from dreamrun.games.ranges import Range
from dreamrun.games.space import MAX_NAMES, unnamed_actions
from dreamrun.games.untrusted import read_json
from dreamrun.shipped import find_shipped

METADATA_FILE = "metadata.json"
MAX_COMPARED_FRAMES = 32  # of the first record, to guess the width of frames without a size
MAX_JUMP_RATIO = 0.3  # measured: 0.9 to 2.3 for the samples of 64x64, at most 0.2 for the same made 32x128
PUBLIC_SET = Game("coinrun", actions=procgen_actions("coinrun"))  # the public CoinRun set, which has no such file


def read_metadata(folder: Path) -> Game:
    """The game of a data set. Fields that are missing are those of the public set."""
    folder = find_dataset(folder)
    path = folder / METADATA_FILE
    if not path.is_file():
        _check_public_size(folder)
        return PUBLIC_SET
    try:
        values = read_json(path)
        if "frame_shape" not in values:
            _check_public_size(folder)
        game = Game.from_dict(values, _default_game(values))
        check_frame_shape(game.frame_shape)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is invalid: {error}") from None
    return game


def _check_public_size(folder: Path) -> None:
    """Refuse wide frames that have as many pixels as those of the public set, and no size that tells them apart.

    Two rows of 64 pixels are then one, so that the picture goes on from every even row to the next.
    """
    height, width, _ = PUBLIC_SET.frame_shape
    for shard in sorted(folder.glob(f"*/*{SUFFIX}"))[:1]:
        try:
            record = ShardReader([shard], PUBLIC_SET).read(0, 0)
        except ValueError:  # the index says what is wrong with it
            return
        rows = record.frames[:MAX_COMPARED_FRAMES].astype(np.int16)
        jumps = np.abs(rows[:, 1:, 0] - rows[:, :-1, -1]).mean((0, 2))  # from the end of each row to the next
        inside, between = jumps[::2].mean(), jumps[1::2].mean()
        if inside < MAX_JUMP_RATIO * between and between > 4:
            raise ValueError(
                f"{folder} does not say the size of its frames, and they look like {height // 2}x{2 * width}, not "
                f'{height}x{width}: write "frame_shape": [{height // 2}, {2 * width}, 3] into {folder / METADATA_FILE}'
            )


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
