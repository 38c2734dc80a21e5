"""SIGTERM and Ctrl-C as a request: the training loop stops after the current step and saves a checkpoint."""

from __future__ import annotations

import os
import signal

from tqdm import tqdm


class StopRequest:
    """While this context is open, SIGTERM or Ctrl-C sets `requested`. A second Ctrl-C interrupts at once."""

    def __init__(self):
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame) -> None:
        # On Ctrl-C the terminal signals all processes, and torchrun then sends the signal once more.
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        if self.requested and number == signal.SIGINT and not under_torchrun:
            raise KeyboardInterrupt
        if not self.requested and int(os.environ.get("RANK", 0)) == 0:
            tqdm.write("stopping after this step and saving a checkpoint (press Ctrl-C again to quit at once)")
        self.requested = True
