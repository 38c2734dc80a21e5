"""The real game beside the dream: it gets the same actions."""

from __future__ import annotations

import numpy as np

from dreamrun.data.metadata import Metadata
from dreamrun.data.recorded_game import replay_to
from dreamrun.data.records import Record


class RealGame:
    """One instance of the real game, replayed to the moment of a prompt.

    Create it in a worker thread: importing Procgen takes seconds.

    Args:
        record: the record that the prompt is from.
        moment: index in it of the prompt's last frame.

    Raises:
        ValueError: the record does not contain its level seed, or the game is not installed.
    """

    def __init__(self, record: Record, metadata: Metadata, moment: int):
        self._environment, self.frame = replay_to(record, metadata, moment)  # frame: the current one, uint8 (H, W, C)
        self._num_actions = 0
        self.ended = False  # the episode has ended at least once, and a new one has begun

    def apply_new_actions(self, actions: list[int | np.ndarray]) -> np.ndarray:
        """Step the game with those actions since the prompt that it has not received yet.

        Returns:
            The current frame, uint8 (H, W, C).
        """
        for action in actions[self._num_actions :]:
            frames, _, terminations, truncations, _ = self._environment.step(np.array([action]))
            self.frame, self.ended = frames[0], self.ended or bool(terminations[0] or truncations[0])
        self._num_actions = len(actions)
        return self.frame

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()
