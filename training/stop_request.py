"""TODO."""

from __future__ import annotations

import os
import signal

from tqdm import tqdm


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
