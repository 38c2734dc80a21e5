"""Speed of reading training clips, compared with a conventional loader."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from data.dataset import ClipDataset, clip_start, count_clips, cut_clip
from data.shards import ShardReader


@dataclass(frozen=True)
class LoaderConfig:
    """Speed of reading training clips, compared with a conventional loader."""

    data: Path  # data set folder
    clip_frames: int = 32
    batch_size: int = 128
    num_batches: int = 120  # batches to measure; start-up distorts the result of a small number

    def __post_init__(self):
        for name in ("batch_size", "num_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


def measure(config: LoaderConfig) -> dict:
    """Clips per cpu-second of ClipDataset, and of a loader that sends float32 clips from worker processes."""
    dataset = ClipDataset(config.data, "train", config.clip_frames)
    num_batches = min(config.num_batches, dataset.num_batches(config.batch_size))
    if not num_batches:
        raise ValueError(f"{config.data} has fewer clips than batch_size {config.batch_size}")
    different = []

    def ours() -> Iterator[int]:
        for batch in islice(dataset.batches(config.batch_size), num_batches):
            different.append(len(np.unique(batch.record_ids)))
            yield len(batch.frames)

    measured = {"ours": _time_clips(ours())}
    # In a process that has no shard open: its workers are forked, and array_record's threads do not survive a fork.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        measured["usual"] = fresh.submit(_time_usual, config, num_batches).result()
    height, width, channels = dataset.metadata.frame_shape
    clip_bytes = config.clip_frames * height * width * channels
    results = {"clips": num_batches * config.batch_size, "different_records_median": float(np.median(different))}
    for name, (clips_per_cpu_sec, clips_per_sec) in measured.items():
        results |= {f"{name}_clips_per_cpu_sec": clips_per_cpu_sec, f"{name}_clips_per_sec": clips_per_sec}
        results[f"{name}_mb_per_sec"] = clips_per_sec * clip_bytes / 1e6
    results["ratio"] = measured["ours"][0] / measured["usual"][0]
    return results


def _time_usual(config: LoaderConfig, num_batches: int) -> tuple[float, float]:
    """`_time_clips` of the conventional loader."""
    clips = ConventionalClips(ClipDataset(config.data, "train", config.clip_frames))
    batches = torch.utils.data.DataLoader(clips, config.batch_size, num_workers=2)
    return _time_clips(len(frames) for frames, _ in islice(batches, num_batches))


class ConventionalClips(torch.utils.data.IterableDataset):
    """The baseline: each worker decodes its share of the records and sends all their float32 clips in order."""

    def __init__(self, dataset: ClipDataset):
        self.index, self.metadata = dataset.index, dataset.metadata
        self.clip_frames, self.stride = dataset.clip_frames, dataset.stride

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        reader = ShardReader(self.index.paths, self.metadata)
        for record_id in range(worker.id, len(self.index.lengths), worker.num_workers):
            record = reader.read(int(self.index.shards[record_id]), int(self.index.numbers[record_id]))
            for number in range(count_clips(len(record), self.clip_frames, self.stride)):
                start = int(clip_start(number, len(record), self.clip_frames, self.stride))
                frames, actions = cut_clip(record, start, self.clip_frames, know_leading=True)
                floats = rearrange(torch.from_numpy(frames.copy()), "t h w c -> t c h w").float() / 127.5 - 1
                yield floats, torch.from_numpy(self.metadata.actions.vectors(actions))


def _time_clips(counts: Iterator[int]) -> tuple[float, float]:
    """Clips per cpu-second, child processes included, and per second."""

    def cpu_seconds() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start, cpu_start = time.perf_counter(), cpu_seconds()
    clips = sum(counts)
    del counts  # ends the worker processes, so that their CPU time is counted
    return clips / (cpu_seconds() - cpu_start), clips / (time.perf_counter() - start)
