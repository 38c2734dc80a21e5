"""A recording of part of a rollout, as a video with the pressed keys."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from data.actions import ActionSpace
from data.video import comparison, titled, with_keys, write_mp4
from play.rollout_pool import Rollout, StepResult

MAX_FRAMES = 1800  # two minutes at 15 frames/s; then a recording stops
MAX_REPLAY_FRAMES = 200_000  # from the prompt on; a recording cannot start later in a rollout


class Recording:
    """Consecutive frames of a rollout, in memory."""

    def __init__(self, rollout: Rollout):
        self.rollout = rollout
        self.steps: list[StepResult] = []

    def add(self, step: StepResult) -> bool:
        """Add a frame. Returns whether another one fits."""
        self.steps.append(step)
        return len(self.steps) < MAX_FRAMES

    def mp4(self, space: ActionSpace, fps: float) -> bytes:
        """An mp4 of the dream with the pressed keys; with the real game above it if that ran all the time."""
        frames, actions = np.stack([step.frame for step in self.steps]), np.array([step.action for step in self.steps])
        if all(step.real_frame is not None for step in self.steps):
            real_frames = np.stack([step.real_frame for step in self.steps])
            video = comparison(real_frames[None], frames[None], actions[None], space)
        else:
            video = rollout_video(frames, actions, space)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dream.mp4"
            write_mp4(path, video, fps)
            return path.read_bytes()


def max_recording_bytes(frame_shape: tuple[int, ...]) -> int:
    """Memory of the longest recording, with the real game's frames."""
    return 2 * MAX_FRAMES * int(np.prod(frame_shape))


def rollout_video(frames: np.ndarray, actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    """Generated frames uint8 (T, H, W, 3), upscaled, with a title above and the pressed keys below."""
    return titled(with_keys(frames, actions, space), "dream")
