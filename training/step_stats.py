"""Counts of a training run that stay on the device: losses and bad steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepSummary:
    """What `StepStats` has counted since its last `read`."""

    mean_loss: float  # over the good steps; NaN if there were none
    num_bad_steps: int  # since the run began
    max_bad_streak: int  # the largest number of consecutive bad steps


_OLD_NAMES = {"max_bad_streak": "worst_streak"}  # in checkpoints of earlier versions


class StepStats:
    """Sums of losses and counts of bad steps. They are kept on the device, so that no step waits for it.

    A step is bad if its loss or its gradient norm is not finite.
    """

    def __init__(self, device: torch.device):
        names = ("loss_sum", "good", "bad", "streak", "max_bad_streak")
        self._counts = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}

    def add(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Count a step with these scalars. Returns a float32 scalar: 1 if the step is bad, else 0."""
        counts, good = self._counts, loss.isfinite() & grad_norm.isfinite()
        counts["loss_sum"] += torch.where(good, loss, 0.0)
        counts["good"] += good
        counts["bad"] += ~good
        counts["streak"] += 1
        counts["streak"] *= ~good
        torch.maximum(counts["max_bad_streak"], counts["streak"], out=counts["max_bad_streak"])
        return (~good).float()

    def max_bad_streak(self) -> int:
        """The largest number of consecutive bad steps since the last `read`. Waits for the device."""
        return int(self._counts["max_bad_streak"])

    def read(self) -> StepSummary:
        """Return the counts, then reset all but the total number of bad steps. Waits for the device."""
        counts = dict(zip(self._counts, torch.stack([*self._counts.values()]).tolist(), strict=True))
        mean_loss = counts["loss_sum"] / counts["good"] if counts["good"] else math.nan
        for name in ("loss_sum", "good", "max_bad_streak"):
            self._counts[name].zero_()
        return StepSummary(mean_loss, int(counts["bad"]), int(counts["max_bad_streak"]))

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, for a checkpoint."""
        return self._counts

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the counts of a checkpoint."""
        for name, count in self._counts.items():
            count.copy_(state[name if name in state else _OLD_NAMES[name]])
