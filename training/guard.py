"""What can go wrong in a step, and a user who wants to stop: noted here, acted on by the loop."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class Reading:
    """What `StepCounts` has counted."""

    mean_loss: float  # of the good steps since the last reading; not a number if there were none
    bad_steps: int  # in the whole run
    worst_streak: int  # the most bad steps in a row since the last reading


class StepCounts:
    """Losses and bad steps, added up on the device, so that no step has to wait for it."""

    def __init__(self, device: torch.device):
        names = ("loss_sum", "good", "bad", "streak", "worst_streak")
        self._counts = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}

    def add(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Count a step; float32 scalar, 1 if it is bad (loss or gradient not finite), else 0."""
        counts, good = self._counts, loss.isfinite() & grad_norm.isfinite()
        counts["loss_sum"] += torch.where(good, loss, 0.0)
        counts["good"] += good
        counts["bad"] += ~good
        counts["streak"] += 1
        counts["streak"] *= ~good
        torch.maximum(counts["worst_streak"], counts["streak"], out=counts["worst_streak"])
        return (~good).float()

    def worst_streak(self) -> int:
        """The most bad steps in a row since the last reading. Waits for the device."""
        return int(self._counts["worst_streak"])

    def read(self) -> Reading:
        """Read, and count anew, but for the bad steps. Waits for the device."""
        counts = dict(zip(self._counts, torch.stack([*self._counts.values()]).tolist(), strict=True))
        mean = counts["loss_sum"] / counts["good"] if counts["good"] else math.nan
        for name in ("loss_sum", "good", "worst_streak"):
            self._counts[name].zero_()
        return Reading(mean, int(counts["bad"]), int(counts["worst_streak"]))

    def state_dict(self) -> dict[str, Tensor]:
        """What has been counted, for a checkpoint."""
        return self._counts

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on counting from a checkpoint."""
        for name, count in self._counts.items():
            count.copy_(state[name])


class StopRequest:
    """SIGTERM or Ctrl-C while this context is open: `asked` becomes True. Ctrl-C twice interrupts at once."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ  # it hands on a Ctrl-C that all have had already
        if self.asked and number == signal.SIGINT and not under_torchrun:
            raise KeyboardInterrupt
        if not self.asked and int(os.environ.get("RANK", 0)) == 0:
            tqdm.write("stopping after this step; a checkpoint is being saved (Ctrl-C once more to quit at once)")
        self.asked = True
