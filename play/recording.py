"""A recording of part of a rollout, as a video with the pressed keys."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dreamrun.data.video import comparison, titled, with_keys, write_mp4
from dreamrun.games.space import ActionSpace
from dreamrun.play.rollout_pool import Rollout, StepResult

MAX_RECORDING_BYTES = 512 * 2**20  # of frames; a recording of large ones stops earlier
ENCODED_AT_ONCE = 32  # frames of the video, which are much larger than those of the game


class Recording:
    """Consecutive frames of a rollout, in memory.

    Args:
        max_frames: it is complete with so many.
        on_complete: called then.
    """

    def __init__(self, rollout: Rollout, max_frames: int, on_complete: Callable[[], None]):
        self.rollout = rollout
        self.steps: list[StepResult] = []
        self._max_frames, self._on_complete = max_frames, on_complete

    def add(self, step: StepResult) -> None:
        """Add a frame."""
        self.steps.append(step)
        if len(self.steps) == self._max_frames:
            self._on_complete()

    def mp4(self, space: ActionSpace, fps: float) -> bytes:
        """An mp4 of the dream with the pressed keys; with the real game above it if that ran all the time."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dream.mp4"
            write_mp4(path, self.video(space), fps)
            return path.read_bytes()

    def video(self, space: ActionSpace, at_once: int = ENCODED_AT_ONCE) -> Iterator[np.ndarray]:
        """The frames of the video (height, width, 3), made a few at a time: all of them take gigabytes."""
        with_real_game = all(step.real_frame is not None for step in self.steps)
        for first in range(0, len(self.steps), at_once):
            steps = self.steps[first : first + at_once]
            frames, actions = np.stack([step.frame for step in steps]), np.array([step.action for step in steps])
            if with_real_game:
                real_frames = np.stack([step.real_frame for step in steps])
                yield from comparison(real_frames[None], frames[None], actions[None], space)
            else:
                yield from rollout_video(frames, actions, space)


def max_frames(frame_shape: tuple[int, ...], limit: int) -> int:
    """Length of the longest recording of frames of a shape: `limit`, or fewer if they are large."""
    return max(1, min(limit, MAX_RECORDING_BYTES // (2 * int(np.prod(frame_shape)))))


def max_recording_bytes(frame_shape: tuple[int, ...], limit: int) -> int:
    """Memory of the longest recording, with the real game's frames."""
    return 2 * max_frames(frame_shape, limit) * int(np.prod(frame_shape))


def rollout_video(frames: np.ndarray, actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    """Generated frames uint8 (T, H, W, 3), upscaled, with a title above and the pressed keys below."""
    return titled(with_keys(frames, actions, space), "dream")
