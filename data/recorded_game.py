"""Replay the real game up to a recorded moment."""

import numpy as np

from dreamrun.data.records import Record
from dreamrun.games.base import GameVectorEnv
from dreamrun.games.factory import make_environment
from dreamrun.games.game import Game


def replay_to(record: Record, metadata: Game, frame: int = 0) -> tuple[GameVectorEnv, np.ndarray]:
    """Replay the real game up to frame `frame` of a record.

    Args:
        metadata: of the record's data set.

    Returns:
        One copy of the game in the state of that frame, and its frame, uint8 (H, W, C).
    """
    if record.level_seed is None:
        raise ValueError("the record has no level seed: it cannot be replayed")
    levels = (record.level_seed, 1)
    environment = make_environment(metadata.environment, 1, levels, options=metadata.environment_options)
    frames, _ = environment.reset()
    for action in (*record.prefix_actions, *record.actions[:frame]):
        frames = environment.step(np.array([action]))[0]
    return environment, frames[0]
