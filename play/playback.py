"""The dream of one player: its rollout, the real game beside it, its recording, and when it gets frames."""

from collections import deque
from typing import Any

import numpy as np

from dreamrun.play.actions import actions_to_json
from dreamrun.play.connection import Connection
from dreamrun.play.gallery import RealGame
from dreamrun.play.messages import pack_pictures
from dreamrun.play.recording import Recording
from dreamrun.play.rollout_pool import Rollout, StepResult


class Playback:
    """What the engine reads of a player at every tick. All methods run on the event loop.

    Args:
        connection: to the player's browser.
    """

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
