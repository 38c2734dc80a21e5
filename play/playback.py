"""The dream of one player: its rollout, the real game beside it, its recording, and when it gets frames."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dreamrun.data.video import comparison
from dreamrun.games.space import ActionSpace
from dreamrun.play.actions import actions_to_json
from dreamrun.play.connection import Connection
from dreamrun.play.gallery import RealGame
from dreamrun.play.messages import pack_pictures
from dreamrun.play.rollout_pool import Rollout, StepResult

MAX_RECORDING_BYTES = 512 * 2**20  # of frames; a recording of large ones stops earlier
ENCODED_AT_ONCE = 32  # frames of the video, which are much larger than those of the game


class Recording:
    """Consecutive frames of a rollout, in memory. `on_complete` is called when there are `max_frames`."""

    def __init__(self, rollout: Rollout, max_frames: int, on_complete: Callable[[], None]):
        self.rollout = rollout
        self.steps: list[StepResult] = []
        self._max_frames, self._on_complete = max_frames, on_complete

    def add(self, step: StepResult) -> None:
        """Add a frame."""
        self.steps.append(step)
        if len(self.steps) == self._max_frames:
            self._on_complete()

    def video(self, space: ActionSpace, at_once: int = ENCODED_AT_ONCE) -> Iterator[np.ndarray]:
        """Frames (height, width, 3) of the dream with the pressed keys, below the real game if that ran all the time.

        They are made a few at a time: all of them take gigabytes.
        """
        with_real_game = all(step.real_frame is not None for step in self.steps)
        for first in range(0, len(self.steps), at_once):
            steps = self.steps[first : first + at_once]
            real = np.stack([step.real_frame for step in steps])[None] if with_real_game else None
            frames, actions = np.stack([step.frame for step in steps]), np.array([step.action for step in steps])
            yield from comparison(real, frames[None], actions[None], space)


def max_frames(frame_shape: tuple[int, ...], limit: int) -> int:
    """Length of the longest recording of frames of a shape: `limit`, or fewer if they are large."""
    return max(1, min(limit, MAX_RECORDING_BYTES // (2 * int(np.prod(frame_shape)))))


def max_recording_bytes(frame_shape: tuple[int, ...], limit: int) -> int:
    """Memory of the longest recording, with the real game's frames."""
    return 2 * max_frames(frame_shape, limit) * int(np.prod(frame_shape))


class Playback:
    """What the engine reads of a player at every tick. All methods run on the event loop."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.rollout: Rollout | None = None
        # Stepped by the engine's ticks. Whoever sets it to None closes it on the model thread, after a tick that runs.
        self.real_game: RealGame | None = None
        self.recording: Recording | None = None
        self.held_action: int | np.ndarray = 0  # the recorded action that the held keys mean
        self.keys_number = 0  # number of the newest key message; frames return it
        self.ticks_per_frame = 1
        self.paused = True
        # Frames to generate while paused, each under an action, or under the held keys (None).
        self.single_steps: deque[int | np.ndarray | None] = deque()

    @property
    def active(self) -> bool:
        """Whether the player wants frames at present."""
        return self.rollout is not None and (not self.paused or bool(self.single_steps))

    def is_due(self, tick: int) -> bool:
        """Whether the player gets a frame at this tick."""
        return self.active and (self.paused or tick % self.ticks_per_frame == 0)

    def take_action(self) -> int | np.ndarray:
        """The recorded action of the frame that is generated now."""
        action = self.single_steps.popleft() if self.paused else None
        return self.held_action if action is None else action

    def pause(self, paused: bool, reason: str = "") -> None:
        """Pause or resume."""
        self.paused = paused
        self.single_steps.clear()
        self.connection.send("paused", on=paused, reason=reason)

    def show_step(self, rollout: Rollout, step: StepResult, keys_number: int, timing: dict[str, Any]) -> None:
        """Send a frame to the browser, unless the player has started another rollout in the meantime."""
        if rollout is not self.rollout:
            return
        if self.recording is not None:
            self.recording.add(step)
        header, pictures = {"type": "frame", "frame": step.frame_index + 1, **timing}, [step.frame]
        if step.real_frame is not None:
            pictures.append(step.real_frame)
            header |= {"psnr": round(step.psnr, 1), "real_ended": step.real_ended}
        header |= {"action": actions_to_json(step.action), "keys": keys_number}
        self.connection.send_frame(pack_pictures(header, pictures))
