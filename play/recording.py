"""A stretch of a dream that a player keeps: an mp4 with the keys, and the replay that makes it again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from data.actions import ActionSpace
from data.video import comparison, titled, with_keys, write_mp4
from play.rollout_pool import Rollout, Tick

MAX_FRAMES = 1800  # two minutes at 15 frames/s; a recording then stops by itself
MAX_REPLAY_FRAMES = 200_000  # of a dream from its prompt on; no recording begins later


class Recording:
    """Frames of a dream being recorded, in memory."""

    def __init__(self, dream: Rollout):
        self.dream = dream
        self.ticks: list[Tick] = []  # one after another

    def add(self, tick: Tick) -> bool:
        """One frame more; whether there is room for another."""
        self.ticks.append(tick)
        return len(self.ticks) < MAX_FRAMES

    def mp4(self, space: ActionSpace, fps: float) -> bytes:
        """The dream with its keys; below the real game, where that ran along all the time."""
        frames, actions = np.stack([tick.frame for tick in self.ticks]), np.array([tick.action for tick in self.ticks])
        if all(tick.real_frame is not None for tick in self.ticks):
            real = np.stack([tick.real_frame for tick in self.ticks])
            video = comparison(real[None], frames[None], actions[None], space)
        else:
            video = dream_video(frames, actions, space)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dream.mp4"
            write_mp4(path, video, fps)
            return path.read_bytes()


def dream_video(frames: np.ndarray, actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    """Dreamt frames uint8 (T, H, W, 3) under a title, the keys that led into each below it."""
    return titled(with_keys(frames, actions, space), "dream")
