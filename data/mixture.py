"""Several data sets as one: every batch is of one set, and the order of sets follows from seed and epoch alone.

So a batch has one frame size, and all ranks have the same set at the same step. An epoch has as many batches as all
sets together. Without shares each set has its own number of them, and every clip comes once. With shares a set's clips
come more or less often: its own epochs follow one another within and across those of the mixture.

A mixture of one set is that set.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch.nn.functional as F
import tyro

from dreamrun.data.batch import Batch
from dreamrun.data.dataset import ClipDataset

MAX_SETS = 64
Folders = Annotated[
    Path | tuple[Path, ...], tyro.conf.arg(metavar="PATH...")
]  # of one or several data sets, as an option


class Mixture:
    """Batches of several data sets, whose action vectors are slices of one vector.

    Args:
        sets: equal in seed, rank and world_size up to what makes their clips' seeds differ.
        slices: where each set's action vectors lie in the common one; None: one set, with all of it.
        shares: how often each set comes, up to a common factor; None: as often as its number of clips says.
    """

    def __init__(
        self, sets: Sequence[ClipDataset], slices: Sequence[slice] | None = None, shares: Sequence[float] | None = None
    ):
        self.sets, self._shares = list(sets), shares
        self._slices = list(slices or [slice(0, len(data.metadata.actions)) for data in sets])
        self.num_actions = max(part.stop for part in self._slices)  # of the common vector

    @property
    def num_clips(self) -> int:
        """Clips of all sets, over all ranks."""
        return sum(data.num_clips for data in self.sets)

    def num_batches(self, batch_size: int) -> int:
        """Batches in an epoch."""
        return int(self._batches_by_set(batch_size).sum())

    def order_fingerprint(self, batch_size: int) -> dict[str, int]:
        """All that the order of batches depends on except the epoch: equal for mixtures with the same order."""
        first, *others = (data.order_fingerprint(batch_size) for data in self.sets)
        for number, other in enumerate(others, start=2):
            first |= {f"records of set {number}": other["records"]}
        if self._shares is not None:
            first |= {f"batches of set {n}": int(c) for n, c in enumerate(self._batches_by_set(batch_size), start=1)}
        return first

    def schedule(self, batch_size: int, epoch: int) -> np.ndarray:
        """The number of the set that each batch of an epoch is of, int (batches,)."""
        order = np.repeat(np.arange(len(self.sets)), self._batches_by_set(batch_size))
        return np.random.default_rng((self.sets[0].seed, epoch, len(self.sets))).permutation(order)

    def endless_batches(self, batch_size: int, epoch: int = 0, skip_batches: int = 0) -> Generator[Batch, None, None]:
        """As `batches`, and then those of the next epochs."""
        while True:
            yield from self.batches(batch_size, epoch, skip_batches)
            epoch, skip_batches = epoch + 1, 0

    def batches(self, batch_size: int, epoch: int = 0, skip_batches: int = 0) -> Iterator[Batch]:
        """This rank's part of the batches of one epoch; see `ClipDataset.batches`."""
        schedule = self.schedule(batch_size, epoch)
        done = np.bincount(schedule[:skip_batches], minlength=len(self.sets))
        first = epoch * self._batches_by_set(batch_size) + done  # of each set, counted over all epochs
        with ExitStack() as stack:
            streams: dict[int, Generator[Batch, None, None]] = {}
            for number in schedule[skip_batches:].tolist():
                if number not in streams:
                    stream = self._stream(number, batch_size, int(first[number]))
                    streams[number] = stack.enter_context(closing(stream))
                yield next(streams[number])

    def widen(self, batch: Batch, number: int) -> Batch:
        """A batch of one set with the action vectors of the mixture: zeros outside of the set's slice."""
        if len(self.sets) == 1:
            return batch
        own = self._slices[number]
        actions = F.pad(batch.actions, (own.start, self.num_actions - own.stop))
        return replace(batch, actions=actions, number=number)

    def _stream(self, number: int, batch_size: int, first: int) -> Generator[Batch, None, None]:
        """The batches of a set from number `first` on, epoch after epoch."""
        data = self.sets[number]
        epoch, skip = divmod(first, data.num_batches(batch_size))
        while True:
            with closing(data.batches(batch_size, epoch, skip)) as batches:
                for batch in batches:
                    yield self.widen(batch, number)
            epoch, skip = epoch + 1, 0

    def _batches_by_set(self, batch_size: int) -> np.ndarray:
        """Batches of each set in an epoch, int (sets,)."""
        counts = np.array([data.num_batches(batch_size) for data in self.sets])
        if not counts.all():
            data = self.sets[int(counts.argmin())]
            raise ValueError(f"batch_size {batch_size} is more than the {data.num_clips} clips of {data.folder}")
        if self._shares is None:
            return counts
        shares = np.array(self._shares) / np.sum(self._shares)
        return np.maximum(1, np.round(shares * counts.sum())).astype(int)
