"""Replay the real game up to a recorded moment."""

import numpy as np

from dreamrun.data.records import Record
from dreamrun.games.base import GameVectorEnv
from dreamrun.games.factory import open_recorded
from dreamrun.games.game import Game


def replay_to(record: Record, metadata: Game, frame: int = 0) -> tuple[GameVectorEnv, np.ndarray]:
    """Replay the real game up to a frame of a record: the game in the state of that frame, and its frame (H, W, C)."""
    if record.level_seed is None:
        raise ValueError("the record has no level seed: it cannot be replayed")
    environment = open_recorded(metadata, levels=(record.level_seed, 1))
    frames, _ = environment.reset()
    for action in (*record.prefix_actions, *record.actions[:frame]):
        frames = environment.step(np.array([action]))[0]
    return environment, frames[0]
