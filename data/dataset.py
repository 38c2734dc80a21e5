"""Shards -> shuffled uint8 batches of clips.

The order of an epoch: all records are permuted, and their clips are listed in that order. The list is cut into pools
of whole batches. With batches of B clips, a pool is folded into B lanes, each of which covers a few records, and each
lane is shuffled. Batch n takes the n-th clip of every lane.

Example: with B = 4, a pool of 5 batches holds 20 clips. Lane 0 is clips 0 to 4 of the list, lane 1 is clips 5 to 9, and
so on. Each lane is shuffled. Batch 0 takes the first clip of each of the 4 lanes, batch 1 the second.

So a batch holds clips of about B different records. A rank takes B / world_size neighbouring lanes, so it decodes
records that few other ranks need. The order depends on seed, epoch, batch size and record lengths alone: batches are
the same for any number of ranks, and an epoch can be continued at any batch without decoding those before it.

Shapes: B clips, T frames, H x W x C pixels, A action vector.
"""

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch

from dreamrun.data.batch import Batch
from dreamrun.data.index import index_split, warn_of_bad_records
from dreamrun.data.metadata import read_metadata
from dreamrun.data.outcomes import EventClips, cut_outcomes, find_event_clips
from dreamrun.data.records import Record
from dreamrun.data.shards import ShardReader
from dreamrun.games.space import unknown_action_value
from dreamrun.games.splitmix import splitmix64_hash

# Records in a pool. Two pools are in memory, each about 1 GB over all ranks. The larger the pool, the further apart are
# the clips of one record.
POOL_RECORDS = 512
POOL_EVENTS = 128  # clips of each kind of event in a pool, of as many more records, with `choose_events`
# Minimum records in a lane. With less than one record per lane, a batch holds several clips of the same record.
LANE_RECORDS = 4


def count_clips(num_frames: np.ndarray | int, clip_frames: int, stride: int) -> np.ndarray:
    """Number of clips in records of `num_frames`: one every `stride` frames, and one that ends with the record.

    A record of 160 frames has 17 clips of 32 with stride 8. A record shorter than a clip has none.
    """
    last = np.asarray(num_frames, np.int64) - clip_frames
    return np.where(last < 0, 0, -(-last // stride) + 1)


def clip_start(number: np.ndarray | int, num_frames: np.ndarray | int, clip_frames: int, stride: int) -> np.ndarray:
    """Index of the first frame of clip `number` (0 to `count_clips` - 1) in records of `num_frames`."""
    return np.minimum(np.asarray(number) * stride, np.asarray(num_frames, np.int64) - clip_frames)


def clip_seeds(seed: int, epoch: int, record_ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """uint64 (B,): a seed for each clip, well mixed in all bits."""
    mixed = (record_ids.astype(np.uint64) << np.uint64(32)) ^ starts.astype(np.uint64)
    mixed ^= np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return splitmix64_hash(mixed)


def cut_clip(record: Record, start: int, clip_frames: int, know_leading: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cut a clip: frames (T, H, W, C), and the T recorded actions that lead into them.

    If `know_leading` is false, the action into the first frame is unknown, as in a prompt.
    """
    actions = record.leading_actions()[start : start + clip_frames].copy()
    if not know_leading:
        actions[0] = unknown_action_value(actions)
    return record.frames[start : start + clip_frames], actions


class ClipDataset:
    """All clips of one split of a data set, in shuffled batches.

    Args:
        clip_frames: T.
        stride: frames from the start of one clip to the start of the next.
        seed: of the order and of the clips' seeds.
        rank, world_size: this process takes part `rank` of `world_size` of each batch.
        max_bad_fraction: the largest share of unreadable records that is tolerated.
        progress: called with (shards done, shards to read) while new shards are indexed.
        outcomes: give batches their outcomes too.
        choose_events: take half of the clips of `batches` from those with a reward or an end. Reads all records once.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str,
        clip_frames: int,
        stride: int = 8,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        max_bad_fraction: float = 0.01,
        num_threads: int = 2,
        progress: Callable[[int, int], None] | None = None,
        outcomes: bool = False,
        choose_events: bool = False,
        pool_records: int = POOL_RECORDS,
    ):
        folder = Path(folder)
        self.folder, self.split, self.clip_frames, self.stride = folder, split, clip_frames, stride
        self.seed, self.rank, self.world_size, self.num_threads = seed, rank, world_size, num_threads
        self.has_outcomes, self.pool_records = outcomes, pool_records
        self.metadata = read_metadata(folder)
        self.index = index_split(folder, split, self.metadata, num_threads, progress)
        if rank == 0:
            warn_of_bad_records(self.index, f"{folder}/{split}")
        if self.index.bad_fraction > max_bad_fraction:
            raise ValueError(
                f"{self.index.bad_fraction:.1%} of {folder}/{split} cannot be read, more than max_bad_fraction "
                f"{max_bad_fraction:.1%}; the first: {self.index.bad[0].reason}"
            )
        self._clips_per_record = count_clips(self.index.lengths, clip_frames, stride)
        if self.num_clips == 0:
            longest = max(self.index.lengths, default=0)
            raise ValueError(f"no record of {folder}/{split} has {clip_frames} frames: the longest has {longest}")
        self.reader = ShardReader(self.index.paths, self.metadata)
        self._events = self._find_events() if choose_events else None

    @property
    def num_clips(self) -> int:
        """Clips in an epoch over all ranks."""
        return int(self._clips_per_record.sum())

    def num_batches(self, batch_size: int) -> int:
        """Batches in an epoch; the last, incomplete batch is dropped."""
        return self.num_clips // batch_size

    def batches(self, batch_size: int, epoch: int = 0, skip_batches: int = 0) -> Generator[Batch, None, None]:
        """This rank's part of the batches of one epoch, in the order of the module's docstring.

        Args:
            batch_size: clips in a batch over all ranks; this rank's part has batch_size / world_size of them.
            skip_batches: batches to skip at the start, to continue an epoch.
        """
        assert batch_size % self.world_size == 0
        records: dict[int, Future] = {}
        with ThreadPoolExecutor(self.num_threads) as threads:
            for pool, next_pool in pairwise(chain(self._pools(batch_size, epoch, skip_batches), [None])):
                previous, records = records, {}
                # The next pool is read while this one is used; a record that is in both is read once.
                for ids, _ in filter(None, (pool, next_pool)):
                    for i in dict.fromkeys(ids.ravel().tolist()):  # in the order of use
                        records[i] = records.get(i) or previous.get(i) or threads.submit(self._read, i)
                for record_ids, starts in zip(*pool, strict=True):
                    yield self._collate(records, epoch, record_ids, starts)

    def order_fingerprint(self, batch_size: int) -> dict[str, int]:
        """All that the order of batches depends on except the epoch: equal for data sets with the same order."""
        return {
            "seed": self.seed,
            "batch_size": batch_size,
            "clip_frames": self.clip_frames,
            "clip_stride": self.stride,
            "records": zlib.crc32(np.asarray(self.index.lengths, "<i4").tobytes()),
        }

    @property
    def num_sequential_clips(self) -> int:
        """Number of clips that follow one another without overlap, which `sequential_batches` gives."""
        return int(count_clips(self.index.lengths, self.clip_frames, self.clip_frames).sum())

    def sequential_batches(self, batch_size: int, max_clips: int | None = None) -> Iterator[Batch]:
        """This rank's part of clips that follow one another without overlap; the same clips for any number of ranks.

        Each frame is seen once, except that the last clip of a record ends with it and may overlap the one before.

        Args:
            batch_size: clips in a batch of this rank; the last batch may be smaller, and a rank may have no batch.
            max_clips: maximum clips over all ranks, from records drawn by seed; None: all.
        """
        counts = count_clips(self.index.lengths, self.clip_frames, self.clip_frames)
        order = np.random.default_rng(self.seed).permutation(len(counts))
        record_ids = np.repeat(order, counts[order])[:max_clips]
        numbers = np.concatenate([np.arange(count) for count in counts[order]])[:max_clips]
        starts = clip_start(numbers, self.index.lengths[record_ids], self.clip_frames, self.clip_frames)
        rank_clips = np.array_split(np.arange(len(record_ids)), self.world_size)[self.rank]
        with ThreadPoolExecutor(self.num_threads) as threads:
            for first in range(0, len(rank_clips), batch_size):
                clips = rank_clips[first : first + batch_size]
                batch_ids, batch_starts = record_ids[clips], starts[clips]
                records = {i: threads.submit(self._read, i) for i in dict.fromkeys(batch_ids.tolist())}
                yield self._collate(records, 0, batch_ids, batch_starts)

    def records(self, record_ids: Iterable[int]) -> Iterator[Record]:
        """Whole records, by their index in the split."""
        return map(self._read, record_ids)

    def _pools(self, batch_size: int, epoch: int, skip_batches: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each pool the record ids and starts of this rank's clips, both (batches, B / world_size)."""
        order = np.random.default_rng((self.seed, epoch)).permutation(np.flatnonzero(self._clips_per_record))
        ends = np.cumsum(self._clips_per_record[order])
        num_batches = self.num_batches(batch_size)
        min_records = LANE_RECORDS * batch_size * min(self.pool_records, POOL_RECORDS) // POOL_RECORDS
        pool_records = max(self.pool_records, min_records)
        pool_batches = pool_records * self.num_clips / len(order) / batch_size
        num_pools = max(1, round(num_batches / pool_batches))  # of equal size, as a small one would mix badly
        share = batch_size // self.world_size
        for number, batches in enumerate(np.array_split(np.arange(num_batches), num_pools)):
            if not len(batches) or batches[-1] < skip_batches:
                continue
            lanes = np.arange(batches[0] * batch_size, (batches[-1] + 1) * batch_size).reshape(batch_size, -1)
            lanes = np.random.default_rng((self.seed, epoch, number)).permuted(lanes, axis=1)
            skip = max(0, skip_batches - batches[0])
            clips = lanes[self.rank * share : (self.rank + 1) * share, skip:].T  # indices in the epoch's list of clips
            position = np.searchsorted(ends, clips, side="right")  # of the clip's record in `order`
            record_ids = order[position]
            number_in_record = clips - (ends[position] - self._clips_per_record[record_ids])
            lengths = self.index.lengths[record_ids]
            starts = clip_start(number_in_record, lengths, self.clip_frames, self.stride)
            if self._events is not None:
                seeds = clip_seeds(self.seed, epoch, record_ids, starts)
                events = self._events.sample(np.random.default_rng((self.seed, epoch, number, 1)), POOL_EVENTS)
                record_ids, starts = events.replace_half(record_ids, starts, seeds)
            yield record_ids, starts

    def _find_events(self) -> EventClips:
        """The clips with a reward or an end. Decodes every record."""
        lengths, counts = self.index.lengths, self._clips_per_record
        starts = (
            clip_start(np.arange(count), length, self.clip_frames, self.stride)
            for count, length in zip(counts, lengths, strict=True)
        )
        with ThreadPoolExecutor(self.num_threads) as threads:
            return find_event_clips(threads.map(self._read, range(len(lengths))), starts, self.clip_frames)

    def _read(self, record_id: int) -> Record:
        """A record. Raises ValueError with its name if it cannot be read, although it could when it was indexed."""
        shard, number = int(self.index.shards[record_id]), int(self.index.numbers[record_id])
        record = self.reader.read(shard, number)
        if len(record) != self.index.lengths[record_id]:
            raise ValueError(f"{self.index.paths[shard]}, record {number}: it changed since it was indexed")
        return record

    def _collate(self, records: dict[int, Future], epoch: int, record_ids: np.ndarray, starts: np.ndarray) -> Batch:
        seeds = clip_seeds(self.seed, epoch, record_ids, starts)
        know_leading = seeds >> np.uint64(63)  # the action into the first frame is known in half of the clips
        batch_records = [records[int(record_id)].result() for record_id in record_ids]
        clips = zip(batch_records, starts, know_leading, strict=True)
        cut = [cut_clip(record, start, self.clip_frames, bool(known)) for record, start, known in clips]
        space, outcomes = self.metadata.actions, None
        if self.has_outcomes:
            outcomes = cut_outcomes(batch_records, starts, self.clip_frames, space, self._events)
        return Batch(
            frames=torch.from_numpy(np.stack([frames for frames, _ in cut])),
            actions=torch.from_numpy(space.vectors(np.stack([actions for _, actions in cut]))),
            record_ids=record_ids,
            starts=starts,
            seeds=seeds,
            outcomes=outcomes,
            captions=np.array([record.caption or self.metadata.caption for record in batch_records]),
        )
