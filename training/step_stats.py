"""What can go wrong in a step, and a user who wants to stop: noted here, acted on by the loop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepSummary:
    """What `StepCounts` has counted."""

    mean_loss: float  # of the good steps since the last reading; not a number if there were none
    bad_steps: int  # in the whole run
    max_bad_streak: int  # the most bad steps in a row since the last reading


_OLD_NAMES = {"max_bad_streak": "worst_streak"}  # in checkpoints of earlier versions


class StepStats:
    """Losses and bad steps, added up on the device, so that no step has to wait for it."""

    def __init__(self, device: torch.device):
        names = ("loss_sum", "good", "bad", "streak", "max_bad_streak")
        self._counts = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}

    def add(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Count a step; float32 scalar, 1 if it is bad (loss or gradient not finite), else 0."""
        counts, good = self._counts, loss.isfinite() & grad_norm.isfinite()
        counts["loss_sum"] += torch.where(good, loss, 0.0)
        counts["good"] += good
        counts["bad"] += ~good
        counts["streak"] += 1
        counts["streak"] *= ~good
        torch.maximum(counts["max_bad_streak"], counts["streak"], out=counts["max_bad_streak"])
        return (~good).float()

    def max_bad_streak(self) -> int:
        """The most bad steps in a row since the last reading. Waits for the device."""
        return int(self._counts["max_bad_streak"])

    def read(self) -> StepSummary:
        """Read, and count anew, but for the bad steps. Waits for the device."""
        counts = dict(zip(self._counts, torch.stack([*self._counts.values()]).tolist(), strict=True))
        mean = counts["loss_sum"] / counts["good"] if counts["good"] else math.nan
        for name in ("loss_sum", "good", "max_bad_streak"):
            self._counts[name].zero_()
        return StepSummary(mean, int(counts["bad"]), int(counts["max_bad_streak"]))

    def state_dict(self) -> dict[str, Tensor]:
        """What has been counted, for a checkpoint."""
        return self._counts

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on counting from a checkpoint."""
        for name, count in self._counts.items():
            count.copy_(state[name if name in state else _OLD_NAMES[name]])
