"""Speed of training steps, as they are in a run."""

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from dreamrun.benchmarks.machine import matmul_flops_per_sec, peak_memory_bytes
from dreamrun.data.metadata import PUBLIC_SET
from dreamrun.data.records import Record, encode_record
from dreamrun.data.shards import SUFFIX, write_shard
from dreamrun.games.ranges import Positive, check_ranges
from dreamrun.model import ModelConfig
from dreamrun.model.inference import describe_device, uses_bf16
from dreamrun.training.loop import explain_errors, train_step
from dreamrun.training.setup import Run, prepare
from dreamrun.training.train_config import TrainConfig

WARM_UP_STEPS = 3  # in which torch.compile generates code and the optimizer allocates its moments
SYNTHETIC_FRAMES = 160  # of a synthetic record, as in real data sets


@dataclass(frozen=True)
class StepConfig:
    """Speed of training steps: batches from disk, forward, backward, optimizer and average of the weights."""

    preset: str = "nano"
    data: Path | None = None  # data set folder; None: synthetic records
    batch_size: Positive = 16  # clips in a step
    clip_frames: Positive | None = None  # None: the window
    accumulate: Positive = 1  # micro-batches in a step
    steps: Positive = 20  # number of steps to measure
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile of each block; auto: on a GPU
    activation_checkpointing: bool = False  # recompute activations in the backward pass
    bf16: bool | None = None  # bfloat16 autocast; None: if the device has native bfloat16
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self):
        check_ranges(self)


def measure(config: StepConfig) -> dict:
    """Seconds of training steps, and the share of the matmul rate that they reach."""
    with tempfile.TemporaryDirectory() as folder:
        options = {name: value for name, value in vars(config).items() if name not in ("data", "steps")}
        num_steps = WARM_UP_STEPS + config.steps
        data = config.data or write_synthetic_data(Path(folder) / "data", config.batch_size)
        run = TrainConfig(data=data, out=Path(folder) / "run", wandb="off", max_steps=num_steps, **options)
        return _time_steps(prepare(run, checkpoint=None), config)


def _time_steps(run: Run, config: StepConfig) -> dict:
    device, bf16 = run.device, uses_bf16(run.device, config.bf16)
    clip_frames = run.data.sets[0].clip_frames
    print(f"device: {describe_device(device)}; {'bfloat16' if bf16 else 'float32'}")
    times, waits = [], []
    with closing(run.batches()) as batches:
        for _ in tqdm(range(WARM_UP_STEPS + config.steps), "training"):
            start_time = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - start_time)
            with explain_errors(run.config):
                train_step(run, batch)
            times.append(_timestamp(device))  # without waiting for the device: the host runs ahead of it, as in a run
    secs = np.array([_secs_between(*pair) for pair in pairwise(times)][WARM_UP_STEPS - 1 :])
    waited = sum(waits[WARM_UP_STEPS:])
    peak = peak_memory_bytes(device)  # before the matrix product below allocates more
    matmul = matmul_flops_per_sec(device, torch.bfloat16 if bf16 else torch.float32)
    clips_per_sec = config.batch_size / secs.mean()
    flops = clip_flops(run.state.model.config, (1 + run.config.teacher_forcing) * clip_frames)
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


def write_synthetic_data(folder: Path, num_records: int) -> Path:
    """Write a data set of coarse noise that moves sideways; return its folder."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (8, 8 + SYNTHETIC_FRAMES // 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    frames = np.stack([scene[:, t : t + 64] for t in range(SYNTHETIC_FRAMES)])
    for split, count in (("train", num_records), ("val", 1)):
        records = (Record(frames, rng.integers(0, len(PUBLIC_SET.actions), len(frames))) for _ in range(count))
        (folder / split).mkdir(parents=True)
        write_shard(folder / split / f"data_0000{SUFFIX}", map(encode_record, records))
    return folder


def _timestamp(device: torch.device) -> float | torch.cuda.Event:
    """The time now; for a GPU, the time at which it will have finished all work queued so far."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _secs_between(start: Any, end: Any) -> float:
    """Seconds between two results of `_timestamp`."""
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000.0


def clip_flops(config: ModelConfig, num_frames: int) -> float:
    """Floating-point operations of training on `num_frames` frames: three times the forward pass, nothing recomputed.

    It counts all linear maps and attention products, including those that a causal mask hides.
    """
    dim, frequencies = config.dim, 256
    patches = replace(config, window_frames=num_frames).flops_per_pass
    vectors = config.num_modulation_vectors * dim**2 + frequencies * dim + dim**2 + config.num_actions * dim
    return 3.0 * num_frames * (patches + 2.0 * vectors)
