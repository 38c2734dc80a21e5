"""Training batches by epoch and number, loaded in a thread ahead of their use."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any, cast

import torch

from dreamrun.data.dataset import Batch
from dreamrun.data.mixture import Mixture
from dreamrun.data.workers import prefetch


class BatchLoader:
    """This rank's part of the batches of a mixture of data sets.

    Args:
        batch_size: clips of a batch, over all ranks.
        device: for a GPU, batches are in pinned memory, from which it copies while it computes.
    """

    def __init__(self, dataset: Mixture, batch_size: int, device: torch.device):
        self.batches_per_epoch = dataset.num_batches(batch_size)
        self.wait_secs = 0.0  # time that `load` took, in total
        self._dataset, self._batch_size, self._pin = dataset, batch_size, device.type == "cuda"
        self._batches: Generator[Batch, None, None] | None = None
        self._next = (-1, -1)  # epoch and number of the batch that `_batches` yields next

    def load(self, epoch: int, number: int) -> Batch:
        """A batch by its epoch and its number in the epoch. Batches that are loaded in order are ready in advance."""
        start_time = time.perf_counter()
        try:
            if self._batches is None or self._next != (epoch, number):
                self.close()
                self._batches = self._open(epoch, number)
            batch = next(self._batches)
        finally:
            self.wait_secs += time.perf_counter() - start_time
        self._next = (epoch, number + 1)
        return batch

    def close(self) -> None:
        """Stop the thread."""
        if self._batches is not None:
            self._batches.close()
        self._batches = None

    def _open(self, epoch: int, number: int) -> Generator[Batch, None, None]:
        batches = self._dataset.batches(self._batch_size, epoch, skip_batches=number)
        return cast(Generator, prefetch(map(_pin_memory, batches) if self._pin else batches))


def _pin_memory(batch: Batch) -> Batch:
    frames, actions = (torch.from_numpy(array).pin_memory() for array in (batch.frames, batch.actions))
    return replace(batch, frames=cast(Any, frames), actions=cast(Any, actions))
