"""TODO."""

from __future__ import annotations

import numpy as np

from data.games.base import GameVectorEnv
from data.games.factory import make_environment
from data.metadata import Metadata
from data.records import Record


def replay_to(record: Record, metadata: Metadata, frame: int = 0) -> tuple[GameVectorEnv, np.ndarray]:
    """The real game, brought by replay to a recorded moment.

    Returns:
        The game (one copy of it) standing at `frame` of the record, and what it shows there, uint8 (H, W, C).

    Raises:
        ValueError: the record does not know its level.
    """
    if record.level_seed is None:
        raise ValueError("this record does not know its level: it cannot be replayed")
    levels = (record.level_seed, 1)
    environment = make_environment(metadata.environment, 1, levels, **dict(metadata.environment_options))
    frames, _ = environment.reset()
    for action in (*record.prefix_actions, *record.actions[:frame]):
        frames = environment.step(np.array([action]))[0]
    return environment, frames[0]
