"""Measure speed: medians and ratios from one run, as machines are shared and noisy. The last line printed is JSON.

python -m scripts.benchmark rollout --preset nano
python -m scripts.benchmark rollout --preset small --num-steps 10 --compare reference
python -m scripts.benchmark loader --data datasets/coinrun
python -m scripts.benchmark train --preset nano --batch-size 8
python -m scripts.benchmark train --preset small --batch-size 128 --clip-frames 32 --compile
python -m scripts.benchmark play --players 4
python -m scripts.benchmark importer --videos recordings
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

import cli
from data.dataset import ClipDataset, clip_start, count_clips, cut_clip
from data.importing import Importer, ImportVideoConfig
from data.recordings import find_sources, pictures
from data.records import Record, encode_record
from data.shards import SUFFIX, Metadata, ShardReader, write_shard
from model import PRESETS, ModelConfig, Sampler, WorldModel
from play.benchmark import PlayBenchmark, measure_playing
from training.config import TrainConfig
from training.distributed import choose_device, describe_device, fast_bf16, for_dreaming
from training.loop import Trainer

WARM_UP_FRAMES = 5  # libraries set themselves up, and a GPU's graph is captured
REFERENCE_FRAMES = 5  # measured of the reference, which takes seconds each
WARM_UP_STEPS = 3  # torch.compile makes its code, and the optimizer its moments
SYNTHETIC_FRAMES = 160  # of a record made up, as in real data sets
ENDS = 100  # a dream so many frames old is compared with one at the end of a long run


@dataclass(frozen=True)
class RolloutConfig:
    """Dreaming, frame by frame, with the window full."""

    preset: str = "nano"  # random weights: they cost what trained ones do
    checkpoint: Path | None = None  # in place of a preset
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bf16: bool | None = None  # bfloat16 weights; None: where the device is fast at it
    batch_size: int = 1  # dreams side by side
    num_steps: int | None = None  # denoising steps a frame; None: as the network says
    frames: int = 100  # measured, all at a full window
    compare: Literal["reference"] | None = None  # also measure without the cache, in turn, and print the ratio

    def __post_init__(self):
        for name in ("batch_size", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.checkpoint and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}: choose {', '.join(PRESETS)}")


@dataclass(frozen=True)
class LoaderConfig:
    """Reading training clips, against a loader of the usual kind."""

    data: Path  # data set folder
    clip_frames: int = 32
    batch_size: int = 128
    num_batches: int = 120  # measured; so many that the records read ahead of the first weigh little


@dataclass(frozen=True)
class StepConfig:
    """Training steps as they are in a run: batches from disk, forward, backward, optimizer, average of the weights."""

    preset: str = "nano"
    data: Path | None = None  # data set folder; None: records made up for the occasion
    batch_size: int = 16  # clips a step
    clip_frames: int | None = None  # None: the window
    accumulate: int = 1  # parts that a batch is taken in
    steps: int = 20  # measured
    compile: bool = False  # torch.compile, block by block
    recompute: bool = False  # run each block again for its gradient
    bf16: bool | None = None  # bfloat16 autocast; None: where the device is fast at it
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self):
        for name in ("batch_size", "accumulate", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


@dataclass(frozen=True)
class ImporterConfig:
    """Importing recordings, pictures alone, against decoding them with PyAV."""

    videos: Path  # folder of recordings
    size: str = "64x64"  # width x height of the frames
    fps: float | None = None  # of the frames; None: as scripts.import_video chooses


def main(config: RolloutConfig | LoaderConfig | StepConfig | PlayBenchmark | ImporterConfig) -> None:
    """Measure, print a table for people, then JSON."""
    measures = {
        RolloutConfig: rollout,
        LoaderConfig: loader,
        StepConfig: train,
        PlayBenchmark: measure_playing,
        ImporterConfig: importer,
    }
    results = measures[type(config)](config)
    for name, value in results.items():
        print(f"  {name:28s} {value:.4g}" if isinstance(value, float) else f"  {name:28s} {value}")
    print(json.dumps(results))


@torch.inference_mode()
def rollout(config: RolloutConfig) -> dict:
    """Frames a second of the sampler."""
    device = choose_device(config.device)
    bf16 = fast_bf16(device) if config.bf16 is None else config.bf16
    model = _model(config)
    num_steps = model.config.num_steps if config.num_steps is None else config.num_steps
    print(f"device: {describe_device(device)}; {'bfloat16' if bf16 else 'float32'}")
    samplers = {"cached": Sampler(for_dreaming(model, device, bf16), num_steps)}
    if config.compare:
        # The plain network over the whole window, and, to tell the cache's share, the packed one.
        samplers["reference"] = Sampler(for_dreaming(model, device, bf16, packed=False), num_steps, cache=False)
        samplers["packed_reference"] = Sampler(for_dreaming(model, device, bf16), num_steps, cache=False)
    actions = torch.eye(model.config.num_actions)[torch.arange(config.batch_size) % model.config.num_actions]
    prompt = torch.zeros(config.batch_size, max(1, model.config.window_frames - 1), *model.config.frame_shape)
    milliseconds = {}
    for name, sampler in samplers.items():
        sampler.reset(prompt)
        frames = config.frames if name == "cached" else min(config.frames, REFERENCE_FRAMES)
        warm_up = WARM_UP_FRAMES if name == "cached" else 1
        milliseconds[name], memory = _time_frames(partial(sampler.step, actions), device, warm_up, frames, name)
        if name == "cached":
            early_bytes, late_bytes = memory
    cached = milliseconds["cached"]
    median = float(np.median(cached))
    matmul = matmul_flops_per_sec(device, torch.bfloat16 if bf16 else torch.float32)
    # The finished frame is run on once more, to stand in the cache.
    frame_flops = (num_steps + 1) * model.config.run_flops
    frames_per_sec = 1000.0 * config.batch_size / median
    results = {
        "network": str(config.checkpoint or config.preset),
        "batch_size": config.batch_size,
        "num_steps": num_steps,
        "frames_per_sec": frames_per_sec,
        "ms_per_frame_median": median,
        **{f"ms_per_frame_p{p}": float(np.percentile(cached, p)) for p in (95, 99)},
        "ms_per_frame_worst": float(cached.max()),
        "peak_memory_mib": peak_memory_bytes(device) / 2**20,
        "cache_mib": samplers["cached"].num_bytes / 2**20,
        "gflop_per_frame": frame_flops / 1e9,
        "matmul_gflop_per_sec": matmul / 1e9,
        "share_of_matmul_rate": frame_flops * frames_per_sec / matmul,
    }
    if config.frames >= 4 * ENDS:  # a long dream beside a young one, in turn, so that noise strikes both
        young = Sampler(samplers["cached"].model, num_steps)
        young.reset(prompt)
        pairs = []
        for _ in range(2 * ENDS):
            pairs.append([_milliseconds(partial(s.step, actions), device) for s in (young, samplers["cached"])])
        results["ms_at_frame_100"], results["ms_at_end"] = np.median(pairs, axis=0).tolist()
        results["memory_mib_at_frame_100"], results["memory_mib_at_end"] = early_bytes / 2**20, late_bytes / 2**20
    if config.compare:
        for name in ("packed_reference", "reference"):
            results[f"{name}_ms_per_frame_median"] = float(np.median(milliseconds[name]))
        results["ratio_by_cache_alone"] = results["packed_reference_ms_per_frame_median"] / median
        results["ratio"] = results["reference_ms_per_frame_median"] / median
    return results


def _model(config: RolloutConfig) -> WorldModel:
    if config.checkpoint:
        return WorldModel.from_pretrained(config.checkpoint)
    torch.manual_seed(0)
    model = WorldModel(PRESETS[config.preset])
    with torch.no_grad():
        for parameter in model.parameters():  # zeros would be quicker than weights are
            parameter.normal_(std=0.02)
    return model


def _time_frames(
    step: Callable[[], torch.Tensor], device: torch.device, warm_up: int, frames: int, name: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """Milliseconds of each frame after the warm-up, and the memory in use at frame 100 and at the end."""
    times, early = [], 0
    for number in tqdm(range(warm_up + frames), desc=name, unit=" frames", mininterval=1.0):
        times.append(_milliseconds(step, device))
        if number <= ENDS:
            early = memory_bytes(device)
    return np.array(times[warm_up:]), (early, memory_bytes(device))


def _milliseconds(work: Callable[[], torch.Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000.0 * (time.perf_counter() - start)


def matmul_flops_per_sec(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """The rate of a large matrix product, the best of some."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def memory_bytes(device: torch.device) -> int:
    """In use now: on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was in use."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def loader(config: LoaderConfig) -> dict:
    """Clips a cpu-second of the data set's batches, and of a loader that sends float32 clips from worker processes."""
    dataset = ClipDataset(config.data, "train", config.clip_frames)
    num_batches = min(config.num_batches, dataset.num_batches(config.batch_size))
    if not num_batches:
        raise ValueError(f"{config.data} has fewer clips than --batch-size {config.batch_size}")
    different = []

    def ours() -> Iterator[int]:
        for batch in islice(dataset.batches(config.batch_size), num_batches):
            different.append(len(np.unique(batch.record_ids)))
            yield len(batch.frames)

    measured = {"ours": _time_clips(ours())}
    # In a process that has no shard open yet: its workers are forked, which the library's threads would not survive.
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


def train(config: StepConfig) -> dict:
    """Seconds of training steps, and the share of the matmul rate that they reach."""
    with tempfile.TemporaryDirectory() as folder:
        options = {name: value for name, value in vars(config).items() if name not in ("data", "steps")}
        num_steps = WARM_UP_STEPS + config.steps
        data = config.data or _made_up(Path(folder) / "data", config.batch_size)
        trainer = Trainer(TrainConfig(data=data, out=Path(folder) / "run", wandb="off", max_steps=num_steps, **options))
        trainer.resume()  # from nothing: compiles
        return _time_steps(trainer, config)


def _time_steps(trainer: Trainer, config: StepConfig) -> dict:
    device, bf16 = trainer.device, fast_bf16(trainer.device) if config.bf16 is None else config.bf16
    clip_frames = trainer.data.clip_frames
    print(f"device: {describe_device(device)}; {'bfloat16' if bf16 else 'float32'}")
    moments, waits = [], []
    for waited in tqdm(trainer.steps(WARM_UP_STEPS + config.steps), "training", WARM_UP_STEPS + config.steps):
        moments.append(_moment(device))  # the device is not waited for: the host runs ahead of it, as in a run
        waits.append(waited)
    secs = np.array([_secs_between(*pair) for pair in pairwise(moments)][WARM_UP_STEPS - 1 :])
    waited = sum(waits[WARM_UP_STEPS:])
    peak = peak_memory_bytes(device)  # before the matrix product below adds to it
    matmul = matmul_flops_per_sec(device, torch.bfloat16 if bf16 else torch.float32)
    clips_per_sec = config.batch_size / secs.mean()
    copies = 2 if trainer.config.noise_levels == "teacher-forcing" else 1
    flops = clip_flops(trainer.model_config, copies * clip_frames)
    return {
        "network": config.preset,
        "batch_size": config.batch_size,
        "clip_frames": clip_frames,
        "clips_per_sec": clips_per_sec,
        "steps_per_sec": 1.0 / secs.mean(),
        "ms_per_step_median": 1000.0 * float(np.median(secs)),
        "ms_per_step_p90": 1000.0 * float(np.percentile(secs, 90)),
        "gflop_per_clip": flops / 1e9,
        "matmul_gflop_per_sec": matmul / 1e9,
        "flop_utilisation": flops * clips_per_sec / matmul,
        "peak_memory_mib": peak / 2**20,
        "data_wait_secs": waited,
        "data_wait_share": waited / secs.sum(),
    }


def _made_up(folder: Path, num_records: int) -> Path:
    """A data set of coarse noise that drifts to the side."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (8, 8 + SYNTHETIC_FRAMES // 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([scene[:, t : t + 64] for t in range(SYNTHETIC_FRAMES)])
    for split, count in (("train", num_records), ("val", 1)):
        records = (Record(frames, rng.integers(0, len(Metadata().actions), len(frames))) for _ in range(count))
        (folder / split).mkdir(parents=True)
        write_shard(folder / split / f"data_0000{SUFFIX}", map(encode_record, records))
    return folder


def _moment(device: torch.device) -> float | torch.cuda.Event:
    """Now; on a GPU, when it will have done what it has been given."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _secs_between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000.0


def clip_flops(config: ModelConfig, num_frames: int) -> float:
    """Floating-point operations of training on so many frames at once: the forward pass three times, no recomputation.

    Of all linear maps and attention products, what a causal mask hides included, as on the CPU.
    """
    dim, frequencies = config.dim, 256
    patches = replace(config, window_frames=num_frames).run_flops
    vectors = (12 * config.num_blocks + 2) * dim**2 + frequencies * dim + dim**2 + config.num_actions * dim
    return 3.0 * num_frames * (patches + 2.0 * vectors)


def _time_usual(config: LoaderConfig, num_batches: int) -> tuple[float, float]:
    """`_time_clips` of the baseline."""
    clips = UsualClips(ClipDataset(config.data, "train", config.clip_frames))
    batches = torch.utils.data.DataLoader(clips, config.batch_size, num_workers=2)
    return _time_clips(len(frames) for frames, _ in islice(batches, num_batches))


class UsualClips(torch.utils.data.IterableDataset):
    """The baseline: every worker decodes its records anew for each, and sends their float32 clips one after another."""

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
                floats = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
                yield floats, torch.from_numpy(self.metadata.actions.vectors(actions))


def _time_clips(counts: Iterator[int]) -> tuple[float, float]:
    """Clips a cpu-second (children included) and a second."""

    def cpu_seconds() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start, cpu_start = time.perf_counter(), cpu_seconds()
    clips = sum(counts)
    del counts  # worker processes end, and are counted
    return clips / (cpu_seconds() - cpu_start), clips / (time.perf_counter() - start)


def importer(config: ImporterConfig) -> dict:
    """Seconds of the clock and of the processor; the median of three runs each, in turn."""
    sources, counts, measured = find_sources(config.videos), [], {"decode": [], "import": []}

    def decode() -> None:
        counts.append(sum(1 for source in sources for _ in pictures(source)))

    def import_all() -> None:
        with tempfile.TemporaryDirectory() as folder:
            wanted = ImportVideoConfig(config.videos, Path(folder) / "set", config.size, "crop", config.fps, "none")
            Importer(wanted, print).run(lambda num_frames: None)

    for _ in range(3):
        for name, work in (("decode", decode), ("import", import_all)):
            start, cpu_start = time.perf_counter(), time.process_time()
            work()
            measured[name].append((time.perf_counter() - start, time.process_time() - cpu_start))
    medians = {name: np.median(times, axis=0) for name, times in measured.items()}
    results = {"pictures": counts[0], "size": config.size}
    for name, (secs, cpu_secs) in medians.items():
        results |= {f"{name}_pictures_per_sec": counts[0] / secs, f"{name}_pictures_per_cpu_sec": counts[0] / cpu_secs}
    results["ratio"], results["ratio_of_cpu"] = (medians["decode"] / medians["import"]).tolist()
    return results


Benchmark = (
    Annotated[RolloutConfig, tyro.conf.subcommand("rollout")]
    | Annotated[LoaderConfig, tyro.conf.subcommand("loader")]
    | Annotated[StepConfig, tyro.conf.subcommand("train")]
    | Annotated[PlayBenchmark, tyro.conf.subcommand("play")]
    | Annotated[ImporterConfig, tyro.conf.subcommand("importer")]
)

if __name__ == "__main__":
    cli.run(main, Benchmark, __doc__)
