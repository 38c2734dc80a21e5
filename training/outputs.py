"""Everything that a run writes into its folder. Only rank 0 writes."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dreamrun.data.atomic import atomic_file
from dreamrun.data.metrics_log import ACTION_STRIPS, TRAIN_CONFIG_FILE, MetricsLog, append_command
from dreamrun.data.video import write_mp4, write_png
from dreamrun.training.checkpoint import CheckpointWriter
from dreamrun.training.config import TrainConfig
from dreamrun.training.distributed import all_gather_object, rank
from dreamrun.training.state import TrainState
from dreamrun.training.validation import ValidationRollout


class RunOutputs:
    """Metrics, plot, rollouts and checkpoints of a run. Every rank makes one; on ranks above 0 it writes nothing.

    Args:
        latest: the checkpoint that the run resumes from.
        command: the command line that started training; None: training was called as a library.

    Raises:
        OSError: the run folder cannot be written to.
    """

    def __init__(self, config: TrainConfig, state: TrainState, latest: Path | None, command: str | None):
        self._folder = config.out
        self._is_writer = rank() == 0
        if not self._is_writer:
            return
        from dreamrun.training.plots import (
            MetricsPlot,  # imported here: matplotlib takes a second, and only rank 0 needs it
        )

        with atomic_file(config.out / TRAIN_CONFIG_FILE) as path:
            path.write_text(json.dumps(asdict(config), indent=2, default=str) + "\n")
        if command:
            append_command(config.out, command, state.step)
        settings = {**asdict(config), "model": state.model.config.to_dict(), "game": state.model.game.to_dict()}
        wandb_options = (config.wandb, config.wandb_project, config.wandb_entity)
        self._log = MetricsLog(config.out, state.step, *wandb_options, settings, state.wandb_id)
        state.wandb_id = self._log.wandb_id
        self._plot = MetricsPlot(config.out)
        self._checkpoints = CheckpointWriter(config.out, state.ema, config.keep_checkpoints, latest)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write metrics, named like `train/loss`."""
        if self._is_writer:
            self._log.log(step, metrics)

    def plot(self, last: bool = False) -> None:
        """Draw the metrics, if they were not drawn a short time ago or this is the `last` time."""
        if self._is_writer:
            self._plot.draw(last)

    def write_rollout(self, step: int, rollout: ValidationRollout, fps: float, game: str = "") -> None:
        """Write the video and the grid of a rollout. Warn if the disk is full.

        Args:
            game: its name, if there are several.
        """
        if not self._is_writer:
            return
        path = self._folder / "rollouts" / f"step_{step:07d}{_suffix(game)}.mp4"
        try:
            write_mp4(path, rollout.video, fps)
            self._log.log_media(step, f"rollout/video{_suffix(game)}", path)
            path = path.with_suffix(".png")
            write_png(path, rollout.grid)
            self._log.log_media(step, f"rollout/grid{_suffix(game)}", path)
        except OSError as error:
            print(f"warning: {path} could not be written: {error}", file=sys.stderr)

    def write_action_strip(self, step: int, strip: np.ndarray, fps: float, game: str = "") -> None:
        """Write the video of an action strip; see `write_rollout`."""
        if not self._is_writer:
            return
        path = self._folder / ACTION_STRIPS.replace("*", f"{step:07d}{_suffix(game)}")
        try:
            write_mp4(path, strip, fps)
            self._log.log_media(step, f"rollout/actions{_suffix(game)}", path)
        except OSError as error:
            print(f"warning: {path} could not be written: {error}", file=sys.stderr)

    def save_checkpoint(self, state: TrainState, val_loss: float | None) -> None:
        """Copy the state, and write it while training continues."""
        if self._is_writer:
            self._checkpoints.save(state.step, state.ema, state.state_dict(), val_loss)

    def wait_for_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, on every rank, after all writing has ended. Every rank must call this."""
        return all_gather_object(self._checkpoints.wait() if self._is_writer else None)[0]

    def checkpoint_error(self) -> str | None:
        """Why the last checkpoint could not be saved, on every rank; None if it was. Every rank must call this."""
        return all_gather_object(self._checkpoints.error if self._is_writer else None)[0]

    def close(self) -> None:
        """Finish writing."""
        if self._is_writer:
            self._checkpoints.close()
            self._log.close()


def _suffix(game: str) -> str:
    """The name of a game in the name of a file."""
    return "_" + re.sub(r"[^A-Za-z0-9.]+", "-", game) if game else ""
