"""The real game beside the dream, fed with the same keys."""

from __future__ import annotations

import numpy as np

from data.games.replay import replay_to
from data.metadata import Metadata
from data.records import Record


class RealGame:
    """One game, brought to the moment of a prompt. Procgen takes seconds to be imported, so make it beside the loop.

    Args:
        record: where the prompt is from.
        moment: place in it of the prompt's last frame.

    Raises:
        ValueError: the record does not know its level, or the game is not installed.
    """

    def __init__(self, record: Record, metadata: Metadata, moment: int):
        self._environment, self.frame = replay_to(record, metadata, moment)  # frame: uint8 (H, W, C), what it shows
        self._num_actions = 0
        self.ended = False  # its episode has ended since, and begun anew

    def catch_up(self, actions: list[int | np.ndarray]) -> np.ndarray:
        """Take those of the actions since the prompt that it has not seen yet; the frame it then shows."""
        for action in actions[self._num_actions :]:
            frames, _, terminations, truncations, _ = self._environment.step(np.array([action]))
            self.frame, self.ended = frames[0], self.ended or bool(terminations[0] or truncations[0])
        self._num_actions = len(actions)
        return self.frame

    def close(self) -> None:
        """End the game."""
        self._environment.close()
