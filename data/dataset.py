"""Shards -> shuffled uint8 batches of clips, in an order that knows nothing of ranks.

An epoch permutes all records and lays their clips out in that order. A pool of whole batches is cut from the row:
with batches of B clips, it is folded into B lanes, each a stretch of a few records, and each lane is shuffled; batch
number n takes the n-th clip of every lane. So a batch holds clips of about B records, and a rank, which takes B /
world_size neighbouring lanes, decodes records that hardly any other rank needs. All of it follows from seed, epoch
and lengths: the same batches come out whatever the number of ranks, and any of them can be reached without decoding
those before it.

Shapes: B clips, T frames, H x W x C pixels, A action vector.
"""

from __future__ import annotations

import queue
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from data.actions import unknown_action_value
from data.index import SplitIndex, index_split
from data.metadata import read_metadata
from data.records import Record
from data.shards import ShardReader
from data.splitmix import splitmix64_hash

# About 1 GB decoded, twice, over all ranks. The more, the further apart the clips of one record come to stand.
POOL_RECORDS = 512
# At least so many for each clip of a batch: below one, a batch holds several clips of the same record.
LANE_RECORDS = 4
MAX_NAMED_PARTS = 5


@dataclass(frozen=True)
class Batch:
    """Clips as they come from disk; whoever trains moves them to the device and converts them there."""

    frames: np.ndarray  # uint8 (B, T, H, W, C)
    actions: np.ndarray  # float32 (B, T, A); actions[:, t] leads into frame t, zeros where none is known
    record_ids: np.ndarray  # int64 (B,), which record of the split each clip is from
    starts: np.ndarray  # int64 (B,), the clip's first frame in that record
    seeds: np.ndarray  # uint64 (B,), of all that is random about each clip; from (seed, epoch, record, start) alone


def count_clips(num_frames: np.ndarray | int, clip_frames: int, stride: int) -> np.ndarray:
    """How many clips records of `num_frames` have: one every `stride` frames, and one flush with the end.

    17 clips of 32 from a record of 160 with stride 8; none from a record shorter than a clip.
    """
    last = np.asarray(num_frames, np.int64) - clip_frames
    return np.where(last < 0, 0, -(-last // stride) + 1)


def clip_start(number: np.ndarray | int, num_frames: np.ndarray | int, clip_frames: int, stride: int) -> np.ndarray:
    """First frames of the clips `number` (from 0, below `count_clips`) of records of `num_frames`."""
    return np.minimum(np.asarray(number) * stride, np.asarray(num_frames, np.int64) - clip_frames)


def clip_seeds(seed: int, epoch: int, record_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """uint64 (B,): a seed for each clip, well mixed in all bits (splitmix64, Steele et al., 2014)."""
    mixed = (record_ids.astype(np.uint64) << np.uint64(32)) ^ starts.astype(np.uint64)
    mixed ^= np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return splitmix64_hash(mixed)


def cut_clip(record: Record, start: int, clip_frames: int, know_leading: bool) -> tuple[np.ndarray, np.ndarray]:
    """A clip's frames (T, H, W, C), and the recorded actions, T of them, that lead into them.

    `know_leading` False hides the action into the clip's first frame: a fresh prompt looks like that.
    """
    actions = record.leading_actions()[start : start + clip_frames].copy()
    if not know_leading:
        actions[0] = unknown_action_value(actions)
    return record.frames[start : start + clip_frames], actions


class ClipDataset:
    """All clips of one split.

    Args:
        folder: the data set.
        split: "train", "val" or "test".
        clip_frames: T.
        stride: frames from the start of a clip to the next one's.
        seed: of shuffling, and of the clips' own seeds.
        rank, world_size: which share of each batch this process takes.
        max_bad_fraction: the share of unreadable records above which nothing is read at all.
        num_threads: that read and decode.
        progress: called with (done, to do) while shards that were not seen before are indexed.

    Raises:
        ValueError: no data, nothing long enough for a clip, or too much that is bad.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        clip_frames: int,
        stride: int = 8,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        max_bad_fraction: float = 0.01,
        num_threads: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ):
        if clip_frames < 1 or stride < 1:
            raise ValueError(f"clips of {clip_frames} frames every {stride}: both must be at least 1")
        self.folder, self.split, self.clip_frames, self.stride = folder, split, clip_frames, stride
        self.seed, self.rank, self.world_size, self.num_threads = seed, rank, world_size, num_threads
        self.metadata = read_metadata(folder)
        self.index = index_split(folder, split, self.metadata, num_threads, progress)
        if rank == 0:
            warn_of_bad_parts(self.index, f"{folder}/{split}")
        check_bad_fraction(self.index, f"{folder}/{split}", max_bad_fraction)
        self._clips_of = count_clips(self.index.lengths, clip_frames, stride)
        if self.num_clips == 0:
            longest = max(self.index.lengths, default=0)
            raise ValueError(f"no record of {folder}/{split} has {clip_frames} frames: the longest has {longest}")
        self.reader = ShardReader(self.index.paths, self.metadata)
        self.num_lost = 0  # records that could be read when indexed and no longer can

    @property
    def num_clips(self) -> int:
        """Clips in an epoch, over all ranks."""
        return int(self._clips_of.sum())

    def num_batches(self, batch_size: int) -> int:
        """Batches in an epoch; what is left over, less than a batch, is dropped."""
        return self.num_clips // batch_size

    def batches(self, batch_size: int, epoch: int = 0, skip_batches: int = 0) -> Iterator[Batch]:
        """This rank's part of the batches of one epoch, in an order that depends on seed, epoch and batch size.

        Args:
            batch_size: clips of a batch over all ranks; each yields `batch_size / world_size` of them.
            skip_batches: leave out that many at the start (to go on after a stop).

        Raises:
            ValueError: the batch cannot be shared evenly; or no record can be read any more.
        """
        if batch_size % self.world_size:
            raise ValueError(f"batch_size {batch_size} cannot be shared evenly by {self.world_size} ranks")
        return self._batches(batch_size, epoch, skip_batches)

    def order_fingerprint(self, batch_size: int) -> dict[str, int]:
        """What the order of batches depends on, besides the epoch: the same for two sets with the same order."""
        return {
            "seed": self.seed,
            "batch_size": batch_size,
            "clip_frames": self.clip_frames,
            "clip_stride": self.stride,
            "records": zlib.crc32(np.asarray(self.index.lengths, "<i4").tobytes()),
        }

    def sequential_batches(self, batch_size: int, most: int | None = None) -> Iterator[Batch]:
        """This rank's part of clips that follow one another, so that each frame is seen once (and a few at a record's
        end twice, as its last clip is flush with it); the same clips for any number of ranks.

        Args:
            batch_size: clips of a batch of this rank; the last one has what is left, and a rank may have none at all.
            most: so many clips over all ranks, of records drawn by seed; None: all there are.
        """
        counts = count_clips(self.index.lengths, self.clip_frames, self.clip_frames)
        order = np.random.default_rng(self.seed).permutation(len(counts))
        record_ids = np.repeat(order, counts[order])[:most]
        numbers = np.concatenate([np.arange(count) for count in counts[order]])[:most]
        starts = clip_start(numbers, self.index.lengths[record_ids], self.clip_frames, self.clip_frames)
        own = np.array_split(np.arange(len(record_ids)), self.world_size)[self.rank]
        with ThreadPoolExecutor(self.num_threads) as threads:
            for at in range(0, len(own), batch_size):
                ids, its_starts = (column[own[at : at + batch_size]] for column in (record_ids, starts))
                records = {i: threads.submit(self._read, i) for i in dict.fromkeys(ids.tolist())}
                whole = np.array([records[i].result() is not None for i in ids.tolist()])
                if whole.any():
                    yield self._collate(records, 0, ids[whole], its_starts[whole])

    def records(self, record_ids: Iterable[int]) -> Iterator[Record]:
        """Whole records, by their number in the split."""
        for record_id in record_ids:
            yield self.reader.read(int(self.index.shards[record_id]), int(self.index.numbers[record_id]))

    def _batches(self, batch_size: int, epoch: int, skip_batches: int) -> Iterator[Batch]:
        records: dict[int, Future] = {}
        with ThreadPoolExecutor(self.num_threads) as threads:
            for pool, following in pairwise(chain(self._pools(batch_size, epoch, skip_batches), [None])):
                before, records = records, {}
                # The next pool is read while this one is used; what both need is read once.
                for ids, _ in filter(None, (pool, following)):
                    for i in dict.fromkeys(ids.ravel().tolist()):  # in the order of use
                        records[i] = records.get(i) or before.get(i) or threads.submit(self._read, i)
                for record_ids, starts in zip(*pool, strict=True):
                    yield self._collate(records, epoch, *self._readable(records, pool, record_ids, starts))

    def _pools(self, batch_size: int, epoch: int, skip_batches: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Record ids and starts of this rank's clips, each (batches, B / world_size), pool after pool."""
        order = np.random.default_rng((self.seed, epoch)).permutation(np.flatnonzero(self._clips_of))
        ends = np.cumsum(self._clips_of[order])
        num_batches, pool_records = self.num_batches(batch_size), max(POOL_RECORDS, LANE_RECORDS * batch_size)
        pool_batches = pool_records * self.num_clips / len(order) / batch_size
        num_pools = max(1, round(num_batches / pool_batches))  # of equal size: a small one would mix badly
        share = batch_size // self.world_size
        for number, batches in enumerate(np.array_split(np.arange(num_batches), num_pools)):
            if not len(batches) or batches[-1] < skip_batches:
                continue
            lanes = np.arange(batches[0] * batch_size, (batches[-1] + 1) * batch_size).reshape(batch_size, -1)
            lanes = np.random.default_rng((self.seed, epoch, number)).permuted(lanes, axis=1)
            skip = max(0, skip_batches - batches[0])
            own = lanes[self.rank * share : (self.rank + 1) * share, skip:].T  # places in the epoch's row of clips
            at = np.searchsorted(ends, own, side="right")
            number_in_record = own - (ends[at] - self._clips_of[order[at]])
            lengths = self.index.lengths[order[at]]
            yield order[at], clip_start(number_in_record, lengths, self.clip_frames, self.stride)

    def _readable(
        self,
        records: dict[int, Future],
        pool: tuple[np.ndarray, np.ndarray],
        record_ids: np.ndarray,
        starts: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A batch's record ids and starts; where a record was lost since it was indexed, clips of others stand in."""
        lost = np.array([records[int(record_id)].result() is None for record_id in record_ids])
        if not lost.any():
            return record_ids, starts
        ids = pool[0].ravel()
        left = np.flatnonzero([records[int(record_id)].result() is not None for record_id in ids])
        if not len(left):
            raise ValueError(f"no record of {self.folder}/{self.split} can be read any more")
        chosen = left[clip_seeds(self.seed, 0, record_ids, starts) % np.uint64(len(left))]
        return np.where(lost, ids[chosen], record_ids), np.where(lost, pool[1].ravel()[chosen], starts)

    def _read(self, record_id: int) -> Record | None:
        shard, number = int(self.index.shards[record_id]), int(self.index.numbers[record_id])
        try:
            record = self.reader.read(shard, number)
            if len(record) != self.index.lengths[record_id]:
                raise ValueError(f"{self.index.paths[shard]}, record {number}: it changed since it was indexed")
            return record
        except (ValueError, OSError) as error:
            self.num_lost += 1
            print(f"warning: skipped, as it can no longer be read: {error}", file=sys.stderr)
            return None

    def _collate(self, records: dict[int, Future], epoch: int, record_ids: np.ndarray, starts: np.ndarray) -> Batch:
        seeds = clip_seeds(self.seed, epoch, record_ids, starts)
        known = seeds >> np.uint64(63)  # the coin of each clip: whether the action into its first frame is known
        clips = zip(record_ids, starts, known, strict=True)
        cut = [cut_clip(records[int(i)].result(), start, self.clip_frames, bool(coin)) for i, start, coin in clips]
        return Batch(
            frames=np.stack([frames for frames, _ in cut]),
            actions=self.metadata.actions.vectors(np.stack([actions for _, actions in cut])),
            record_ids=record_ids,
            starts=starts,
            seeds=seeds,
        )


def warn_of_bad_parts(index: SplitIndex, where: str) -> None:
    """Warn of what cannot be read."""
    for part in index.bad[:MAX_NAMED_PARTS]:
        print(f"warning: skipped: {part.reason}", file=sys.stderr)
    if len(index.bad) > MAX_NAMED_PARTS:
        print(f"warning: and {len(index.bad) - MAX_NAMED_PARTS} more in {where}", file=sys.stderr)


def check_bad_fraction(index: SplitIndex, where: str, max_bad_fraction: float) -> None:
    """Whether enough can be read.

    Raises:
        ValueError: more than `max_bad_fraction` of the split is bad.
    """
    if index.bad_fraction > max_bad_fraction:
        raise ValueError(
            f"{index.bad_fraction:.1%} of {where} cannot be read, more than --max-bad-fraction {max_bad_fraction:.1%}; "
            f"the first: {index.bad[0].reason}"
        )


def prefetch(items: Iterable, depth: int = 2) -> Iterator:
    """Run an iterator in a thread of its own, `depth` items ahead; its errors are raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, item) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work():
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
