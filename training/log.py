"""What a run prints and how fast it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from dreamrun.data.mixture import Mixture
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import describe_device, uses_bf16
from dreamrun.training.config import TrainConfig
from dreamrun.training.distributed import print0, world_size

PLAIN_PROGRESS_SECS = 30.0


class Throughput:
    """Training speed between two log lines. Time spent on validation and checkpoints does not count.

    Args:
        step: steps done so far.
        wait_secs: total time spent waiting for data so far.
    """

    def __init__(self, step: int, wait_secs: float):
        self._start_time, self._start_step, self._start_wait_secs = time.perf_counter(), step, wait_secs

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time in this context."""
        start_time = time.perf_counter()
        yield
        self._start_time += time.perf_counter() - start_time

    def read(self, step: int, wait_secs: float, batch_size: int) -> dict[str, float]:
        """Clips per second and the share of time spent waiting for data, both since the last `read`."""
        now = time.perf_counter()
        secs = now - self._start_time
        num_clips = (step - self._start_step) * batch_size
        waited = wait_secs - self._start_wait_secs
        self._start_time, self._start_step, self._start_wait_secs = now, step, wait_secs
        return {"train/clips_per_sec": num_clips / secs, "train/data_wait": waited / secs}


class PlainProgress:
    """Prints the loss now and then on rank 0. It replaces the progress bar where standard error is no terminal."""

    def __init__(self):
        self._next_time = 0.0

    def print(self, step: int, max_steps: int, loss: float, clips_per_sec: float) -> None:
        """Print a line, if PLAIN_PROGRESS_SECS have passed since the last one."""
        if time.monotonic() >= self._next_time:
            self._next_time = time.monotonic() + PLAIN_PROGRESS_SECS
            print0(f"step {step} of {max_steps}: loss {loss:.4f}, {clips_per_sec:.1f} clips/s")


def print_summary(config: TrainConfig, model: WorldModel, data: Mixture, max_steps: int) -> None:
    """Print what runs: device, ranks, model, data and length, on rank 0."""
    num_parameters = sum(p.numel() for p in model.parameters())
    precision = "bfloat16" if uses_bf16(model.device, config.bf16) else "float32"
    print0(f"device: {describe_device(model.device)}; {precision}")
    if world_size() > 1:
        print0(f"ranks: {world_size()}, each with {config.batch_size // world_size()} clips of a batch")
    print0(f"model: {config.preset}, {num_parameters / 1e6:.2f} M parameters, {model.config.prediction} prediction")
    for part in data.sets:
        print0(
            f"data: {part.folder}: {len(part.index.lengths)} records, {part.num_clips} clips of {part.clip_frames} "
            f"frames, {part.num_batches(config.batch_size)} batches of {config.batch_size} an epoch"
        )
        if part.metadata.actions.unconditional:
            print0("this data has no actions: the model learns to continue play, but nobody can steer it")
    if model.game.games:
        names = ", ".join(game.name for game in model.game.games)
        print0(f"games: {names}; {'told in words' if model.config.words else 'without words'}")
    print0(f"run: {config.out}, {max_steps} steps")
