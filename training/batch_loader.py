"""Training batches by epoch and number, loaded in a thread ahead of their use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from data.dataset import Batch, ClipDataset, prefetch


class BatchLoader:
    """This rank's part of the batches of a data set.

    Args:
        batch_size: clips of a batch, over all ranks.
        device: for a GPU, batches are in pinned memory, from which it copies while it computes.
    """

    def __init__(self, dataset: ClipDataset, batch_size: int, device: torch.device):
        self.batches_per_epoch = dataset.num_batches(batch_size)
        self.wait_secs = 0.0  # time that `load` took, in total
        self._dataset, self._batch_size, self._pin = dataset, batch_size, device.type == "cuda"
        self._batches: Iterator[Batch] | None = None
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

    def _open(self, epoch: int, number: int) -> Iterator[Batch]:
        batches = self._dataset.batches(self._batch_size, epoch, skip_batches=number)
        return prefetch(map(_pin_memory, batches) if self._pin else batches)


def _pin_memory(batch: Batch) -> Batch:
    pinned = {name: torch.from_numpy(getattr(batch, name)).pin_memory() for name in ("frames", "actions")}
    return replace(batch, **pinned)
