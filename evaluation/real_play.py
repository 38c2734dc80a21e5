"""Collect real play for an evaluation that is given no data set."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dreamrun.data.collecting import CollectConfig, collect
from dreamrun.evaluation.config import EvaluateConfig
from dreamrun.games.factory import check_recorded_options, with_module
from dreamrun.games.printable import printable
from dreamrun.model.game_info import GameInfo

NUM_RECORDS = {False: (200, 200), True: (60, 40)}  # by `quick`: training records and held-out records


def collect_real_play(config: EvaluateConfig, game: GameInfo, root: Path) -> Path:
    """Collect a data set of the checkpoint's game under `root`, unless it is there, and return its folder.

    The play depends on the game, the split, the sizes and the seed, so it is the same for every checkpoint of a game.

    Raises:
        ValueError: the game is unknown or not installed.
    """
    num_train, num_held_out = NUM_RECORDS[config.quick]
    num_records = {"records": num_train, "val_records": 0, "test_records": 0}
    num_records[f"{config.split or 'test'}_records"] = num_held_out
    try:
        # Both are from the checkpoint's files: a name may import nothing, and an option may be no other setting.
        environment = with_module(game.environment, config.env_module)
        game_options = check_recorded_options(game.environment_options)
    except (ValueError, TypeError) as error:
        raise ValueError(f"no held-out play: give --data DIR, because collecting play failed ({error})") from None
    options = {"env": environment, "seed": config.seed, **num_records, **game_options}
    name = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]
    folder = root / f"play-{name}"
    if not folder.is_dir():
        print(f"collecting {num_train + num_held_out} records of {printable(environment)} into {folder}")
        try:
            collect(CollectConfig(out=folder, **options), lambda _: None)
        except (ValueError, TypeError) as error:
            raise ValueError(f"no held-out play: give --data DIR, because collecting play failed ({error})") from None
    return folder
