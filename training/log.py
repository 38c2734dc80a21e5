"""What a run prints and writes, besides checkpoints: metrics and their plot, videos of rollouts, and its config."""

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dreamrun.data.atomic import write_json
from dreamrun.data.metrics_log import (
    ACTION_STRIPS,
    METRICS_FILE,
    TRAIN_CONFIG_FILE,
    MetricsLog,
    append_command,
    read_metrics,
)
from dreamrun.data.video import write_mp4, write_png
from dreamrun.training.distributed import print0, rank
from dreamrun.training.state import TrainState
from dreamrun.training.train_config import ResolvedConfig

METRICS_PLOT_FILE = "metrics.png"
MEDIA = {"video": "rollouts/step_*.mp4", "grid": "rollouts/step_*.png", "actions": ACTION_STRIPS}  # in the run folder
PLOT_SECS = 30.0  # between two drawings, each of which takes up to a second
PLAIN_PROGRESS_SECS = 30.0  # between two lines, where standard error is no terminal
# Title of each panel of the plot, and patterns of the metrics in it.
PANELS = {
    "loss": ("train/loss", "val/loss", "epoch/val_loss"),
    "val loss by noise level": ("val/loss_noise_*",),
    "PSNR (dB)": ("epoch/psnr", *(f"rollout/psnr_{n}" for n in (1, 4, 8, 16))),
    "val SSIM, and loss under wrong actions / val loss": ("epoch/ssim", "val/action_ratio"),
    "gradient norm, learning rate": ("train/grad_norm", "train/lr"),
    "clips/s, share of time waiting for data": ("train/clips_per_sec", "train/data_wait"),
}
LINEAR_PANELS = ("PSNR (dB)", "val SSIM, and loss under wrong actions / val loss")


class RunLog:
    """The log of a run. Every rank makes one; on ranks above 0 it writes and prints nothing.

    Args:
        state: its Weights & Biases run is continued, or noted there.
        command: the command line that started training, for the model card; None: there was none.

    Raises:
        OSError: the run folder cannot be written to.
    """

    def __init__(self, config: ResolvedConfig, state: TrainState, command: str | None):
        self._folder, self._draws = config.out, config.plot
        self._plot_time, self._print_time = time.monotonic(), 0.0
        self._log: MetricsLog | None = None
        if rank() > 0:
            return
        write_json(config.out / TRAIN_CONFIG_FILE, asdict(config))
        if command:
            append_command(config.out, command, state.step)
        settings = {**asdict(config), "model": state.model.config.to_dict(), "game": state.model.game.to_dict()}
        wandb_options = (config.wandb, config.wandb_project, config.wandb_entity)
        self._log = MetricsLog(config.out, state.step, *wandb_options, settings, state.wandb_id)
        state.wandb_id = self._log.wandb_id

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Write metrics, named like `train/loss`."""
        if self._log:
            self._log.log(step, metrics)

    def print(self, message: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._log:
            tqdm.write(message)
            sys.stdout.flush()

    def print_now_and_then(self, message: str) -> None:
        """Print a line if the last one is a while ago. It replaces the progress bar where there is no terminal."""
        if time.monotonic() >= self._print_time:
            self._print_time = time.monotonic() + PLAIN_PROGRESS_SECS
            print0(message)

    def write_media(self, step: int, kind: str, pixels: np.ndarray, fps: float, game: str = "") -> None:
        """Write a video or an image of rollouts. Warn if the disk is full.

        Args:
            kind: a key of MEDIA.
            pixels: uint8 (T, H, W, 3), or (H, W, 3) for an image.
            game: its name, if there are several.
        """
        if not self._log:
            return
        suffix = "_" + re.sub(r"[^A-Za-z0-9.]+", "-", game) if game else ""
        path = self._folder / MEDIA[kind].replace("*", f"{step:07d}{suffix}")
        try:
            if path.suffix == ".mp4":
                write_mp4(path, pixels, fps, decorated=True)
            else:
                write_png(path, pixels)
            self._log.log_media(step, f"rollout/{kind}{suffix}", path)
        except OSError as error:
            print(f"warning: {path} could not be written: {error}", file=sys.stderr)

    def plot(self, last: bool = False) -> None:
        """Draw `metrics.png`, if it was not drawn a short time ago or this is the `last` time. An error only warns."""
        is_due = last or time.monotonic() - self._plot_time >= PLOT_SECS
        if not self._log or not self._draws or not is_due or not (self._folder / METRICS_FILE).is_file():
            return
        try:
            draw_metrics(self._folder)
        except Exception as error:  # training matters more than its plot
            print(f"warning: {self._folder / METRICS_PLOT_FILE} could not be drawn: {error}", file=sys.stderr)
        self._plot_time = time.monotonic()

    def close(self) -> None:
        """Finish writing."""
        if self._log:
            self._log.close()


def draw_metrics(run_folder: Path) -> None:
    """Draw the `metrics.jsonl` of a run into its `metrics.png`, atomically."""
    from matplotlib.figure import Figure  # imported here: matplotlib takes a second, and only rank 0 needs it

    from dreamrun.data.plots import save_png

    lines = read_metrics(run_folder / METRICS_FILE)
    logged = sorted(set().union(*lines))
    figure = Figure(figsize=(15, 7))  # a layout that fits the labels would take as long as the drawing
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.07, top=0.95, wspace=0.22, hspace=0.28)
    for axes, (title, patterns) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for name in (name for pattern in patterns for name in logged if fnmatch(name, pattern)):
            points = [(line["step"], line[name]) for line in lines if name in line]
            marker = "." if len(points) <= 50 else None
            axes.plot(*zip(*points, strict=True), label=name, marker=marker, linewidth=1)
        axes.set(title=title, xlabel="step")
        if axes.lines:
            axes.legend(fontsize=8)
            if title not in LINEAR_PANELS:
                axes.set_yscale("log", nonpositive="mask")
        axes.grid(alpha=0.3)
    save_png(figure, run_folder / METRICS_PLOT_FILE, dpi=80)


class Throughput:
    """Training speed between two log lines. Time spent on validation and checkpoints does not count."""

    def __init__(self, step: int):
        self._start_time, self._start_step, self._wait_secs = time.perf_counter(), step, 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time in this context."""
        start_time = time.perf_counter()
        yield
        self._start_time += time.perf_counter() - start_time

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in this context as waiting for data."""
        start_time = time.perf_counter()
        yield
        self._wait_secs += time.perf_counter() - start_time

    def read(self, step: int, batch_size: int) -> dict[str, float]:
        """Clips per second and the share of time spent waiting for data, both since the last `read`."""
        now = time.perf_counter()
        secs, num_clips = now - self._start_time, (step - self._start_step) * batch_size
        metrics = {"train/clips_per_sec": num_clips / secs, "train/data_wait": self._wait_secs / secs}
        self._start_time, self._start_step, self._wait_secs = now, step, 0.0
        return metrics
