"""Speed of reading training clips, compared with a conventional loader."""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from dreamrun.benchmarks.machine import cpu_secs
from dreamrun.data.dataset import POOL_RECORDS, ClipDataset, clip_start, count_clips, cut_clip
from dreamrun.data.mixture import Mixture
from dreamrun.data.shards import ShardReader
from dreamrun.games.ranges import Positive, check_ranges

REPETITIONS = 3  # of the measurement of a mixture


@dataclass(frozen=True)
class LoaderConfig:
    """Speed of reading training clips, compared with a conventional loader."""

    data: tuple[Path, ...]  # data set folder; several: batches of a mixture, compared with those of each alone
    clip_frames: Positive = 32
    batch_size: Positive = 128
    num_batches: Positive = 120  # batches to measure; start-up distorts the result of a small number

    def __post_init__(self):
        if not self.data:
            raise ValueError("data names no data set")
        check_ranges(self)


def measure(config: LoaderConfig) -> dict:
    """Clips per cpu-second of our loader, and of one that sends float32 clips from worker processes."""
    return _measure_mixture(config) if len(config.data) > 1 else _measure_one(config, config.data[0])


def _measure_mixture(config: LoaderConfig) -> dict:
    """Clips per cpu-second of a mixture, and of as many clips of each of its data sets alone.

    The parts are measured in turn, several times, and the medians are compared: shared machines are noisy.
    """
    pool = POOL_RECORDS // len(config.data)
    sets = [ClipDataset(folder, "train", config.clip_frames) for folder in config.data]
    mixture = Mixture([ClipDataset(x, "train", config.clip_frames, pool_records=pool) for x in config.data])
    counts = np.bincount(mixture.schedule(config.batch_size, 0)[: config.num_batches], minlength=len(sets))

    def run(source: ClipDataset | Mixture, num_batches: int) -> tuple[float, float]:
        """Cpu-seconds and seconds."""
        batches = islice(source.batches(config.batch_size), num_batches)
        return _time_clips(len(batch.frames) for batch in batches)[1:]

    mixed, alone = [], []
    for _ in range(REPETITIONS):
        mixed.append(run(mixture, int(counts.sum())))
        alone.append(np.sum([run(*part) for part in zip(sets, counts.tolist(), strict=True) if part[1]], axis=0))
    clips = int(counts.sum()) * config.batch_size
    (mixed_cpu, mixed_secs), (alone_cpu, alone_secs) = np.median(mixed, axis=0), np.median(alone, axis=0)
    return {
        "clips": clips,
        "mixture_clips_per_cpu_sec": clips / mixed_cpu,
        "alone_clips_per_cpu_sec": clips / alone_cpu,
        "mixture_clips_per_sec": clips / mixed_secs,
        "alone_clips_per_sec": clips / alone_secs,
        "ratio": alone_cpu / mixed_cpu,
    }


def _measure_one(config: LoaderConfig, folder: Path) -> dict:
    dataset = ClipDataset(folder, "train", config.clip_frames)
    num_batches = min(config.num_batches, dataset.num_batches(config.batch_size))
    if not num_batches:
        raise ValueError(f"{folder} has fewer clips than batch_size {config.batch_size}")
    different = []

    def ours() -> Iterator[int]:
        for batch in islice(dataset.batches(config.batch_size), num_batches):
            different.append(len(np.unique(batch.record_ids)))
            yield len(batch.frames)

    measured = {"ours": _time_clips(ours())}
    # In a process that has no shard open: its workers are forked, and array_record's threads do not survive a fork.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        measured["usual"] = fresh.submit(_time_usual, config, folder, num_batches).result()
    height, width, channels = dataset.metadata.frame_shape
    clip_bytes = config.clip_frames * height * width * channels
    results = {"clips": num_batches * config.batch_size, "different_records_median": float(np.median(different))}
    for name, (clips, spent, secs) in measured.items():
        results |= {f"{name}_clips_per_cpu_sec": clips / spent, f"{name}_clips_per_sec": clips / secs}
        results[f"{name}_mb_per_sec"] = clips / secs * clip_bytes / 1e6
    results["ratio"] = results["ours_clips_per_cpu_sec"] / results["usual_clips_per_cpu_sec"]
    return results


def _time_usual(config: LoaderConfig, folder: Path, num_batches: int) -> tuple[int, float, float]:
    """`_time_clips` of the conventional loader."""
    clips = ConventionalClips(ClipDataset(folder, "train", config.clip_frames))
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


def _time_clips(counts: Iterator[int]) -> tuple[int, float, float]:
    """Clips, cpu-seconds with those of child processes, and seconds."""
    start, cpu_start = time.perf_counter(), cpu_secs()
    clips = sum(counts)
    del counts  # ends the worker processes, so that their CPU time is counted
    return clips, cpu_secs() - cpu_start, time.perf_counter() - start
