"""Shards -> shuffled, rank-disjoint uint8 batches of clips.

An epoch permutes all records, takes them in equal pools of about POOL_RECORDS, decodes each record of a pool once,
and shuffles all clips of the pool; so a batch holds clips of many records, and the next pool is decoded while this
one is used.

Shapes: B clips, T frames, H x W x C pixels, A action vector.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.actions import NO_ACTION
from data.records import Record
from data.shards import ShardReader, SplitIndex, index_split, read_metadata

# 113 different records in a batch of 128, when they are equally long; about 1 GB decoded, twice.
POOL_RECORDS = 512
MAX_NAMED_PARTS = 5


@dataclass(frozen=True)
class Batch:
    """Clips as they come from disk; whoever trains moves them to the device and converts them there."""

    frames: np.ndarray  # uint8 (B, T, H, W, C)
    actions: np.ndarray  # float32 (B, T, A); actions[:, t] leads into frame t, zeros where none is known
    record_ids: np.ndarray  # int64 (B,), which record of the split each clip is from
    starts: np.ndarray  # int64 (B,), the clip's first frame in that record


def clip_starts(num_frames: int, clip_frames: int, stride: int) -> np.ndarray:
    """First frames of a record's clips: every `stride` frames, and one flush with its end, so that endings are seen.

    17 clips of 32 from a record of 160 with stride 8; none from a record shorter than a clip.
    """
    last = num_frames - clip_frames
    if last < 0:
        return np.zeros(0, np.int64)
    return np.unique(np.append(np.arange(0, last + 1, stride), last))


def cut_clip(record: Record, start: int, clip_frames: int, know_leading: bool) -> tuple[np.ndarray, np.ndarray]:
    """A clip's frames (T, H, W, C), and the actions (T,) that lead into them.

    `know_leading` False hides the action into the clip's first frame (NO_ACTION): a fresh prompt looks like that.
    """
    actions = record.leading_actions()[start : start + clip_frames].copy()
    if not know_leading:
        actions[0] = NO_ACTION
    return record.frames[start : start + clip_frames], actions


class ClipDataset:
    """All clips of one split.

    Args:
        folder: the data set.
        split: "train", "val" or "test".
        clip_frames: T.
        stride: frames from the start of a clip to the next one's.
        seed: of shuffling.
        rank, world_size: which share of the records this process takes; every rank yields as many batches.
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
        report_bad(self.index, f"{folder}/{split}", max_bad_fraction)
        self._clips_of = np.array([len(clip_starts(n, clip_frames, stride)) for n in self.index.lengths], np.int64)
        if self.num_clips == 0:
            longest = max(self.index.lengths, default=0)
            raise ValueError(f"no record of {folder}/{split} has {clip_frames} frames: the longest has {longest}")
        self.reader = ShardReader(self.index.paths, self.metadata)
        self.num_lost = 0  # records that could be read when indexed and no longer can

    @property
    def num_clips(self) -> int:
        """Clips in an epoch, over all ranks."""
        return int(self._clips_of.sum())

    def num_batches(self, batch_size: int, epoch: int = 0) -> int:
        """Whole batches that each rank yields in an epoch."""
        order = self._record_order(epoch)
        return min(int(self._clips_of[order[r :: self.world_size]].sum()) for r in range(self.world_size)) // batch_size

    def batches(self, batch_size: int, epoch: int = 0, skip_batches: int = 0) -> Iterator[Batch]:
        """This rank's batches of one epoch, all of `batch_size` clips; the order depends on seed and epoch.

        Args:
            skip_batches: leave out that many at the start (to go on after a stop).
        """
        order = self._record_order(epoch)[self.rank :: self.world_size]
        pools = np.array_split(order, max(1, round(len(order) / POOL_RECORDS)))  # equal: a small one would mix badly
        num_batches, batch, count = self.num_batches(batch_size, epoch), [], 0
        with ThreadPoolExecutor(self.num_threads) as threads:
            clips = self._clips(pools, epoch, threads)
            for clip in clips:
                if count == num_batches:
                    return
                batch.append(clip)
                if len(batch) == batch_size:
                    count += 1
                    if count > skip_batches:
                        yield self._collate(batch)
                    batch = []

    def records(self, record_ids: Iterable[int]) -> Iterator[Record]:
        """Whole records, by their number in the split."""
        for record_id in record_ids:
            yield self.reader.read(int(self.index.shards[record_id]), int(self.index.numbers[record_id]))

    def _record_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(np.flatnonzero(self._clips_of))

    def _clips(self, pools: list[np.ndarray], epoch: int, threads: ThreadPoolExecutor) -> Iterator[tuple]:
        """(record id, record, start, whether the leading action is known), pool after pool, shuffled in each."""
        ahead = [threads.submit(self._read, record_id) for record_id in pools[0]]
        for number, pool in enumerate(pools):
            rng = np.random.default_rng((self.seed, epoch, self.rank, number))
            records = [future.result() for future in ahead]
            ahead = [threads.submit(self._read, record_id) for record_id in (pools[number + 1 :] or [[]])[0]]
            clips = [
                (record_id, record, start)
                for record_id, record in zip(pool, records, strict=True)
                for start in clip_starts(self.index.lengths[record_id], self.clip_frames, self.stride)
            ]
            known = rng.random(len(clips)) < 0.5
            readable = [clip for clip in clips if clip[1] is not None]
            if clips and not readable:
                raise ValueError(f"no record of {self.folder}/{self.split} can be read any more")
            for at in rng.permutation(len(clips)):
                # A record may be lost since it was indexed: another one's clips keep the ranks in step.
                clip = clips[at] if clips[at][1] is not None else readable[at % len(readable)]
                yield *clip, bool(known[at])

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

    def _collate(self, clips: list[tuple]) -> Batch:
        cut = [cut_clip(record, start, self.clip_frames, known) for _, record, start, known in clips]
        return Batch(
            frames=np.stack([frames for frames, _ in cut]),
            actions=self.metadata.actions.one_hot(np.stack([actions for _, actions in cut])),
            record_ids=np.array([record_id for record_id, *_ in clips], np.int64),
            starts=np.array([start for _, _, start, _ in clips], np.int64),
        )


def report_bad(index: SplitIndex, where: str, max_bad_fraction: float) -> None:
    """Name what cannot be read, once.

    Raises:
        ValueError: more than `max_bad_fraction` of the split is bad.
    """
    for part in index.bad[:MAX_NAMED_PARTS]:
        print(f"warning: skipped: {part.reason}", file=sys.stderr)
    if len(index.bad) > MAX_NAMED_PARTS:
        print(f"warning: and {len(index.bad) - MAX_NAMED_PARTS} more in {where}", file=sys.stderr)
    if index.bad_share > max_bad_fraction:
        raise ValueError(
            f"{index.bad_share:.1%} of {where} cannot be read, more than --max-bad-fraction {max_bad_fraction:.1%}; "
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
