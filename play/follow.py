"""Loading a checkpoint for playing, and following a run that is still training: its newer weights, its curves, and its
newest action strip."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from dreamrun.data.metrics_log import ACTION_STRIPS, METRICS_FILE, read_metrics
from dreamrun.model import WorldModel
from dreamrun.model.checkpoint import LATEST, hash_weights
from dreamrun.model.inference import prepare_for_inference
from dreamrun.shipped import follow_link

MAX_POINTS = 400  # of a curve
CURVES = {"log10 of the loss": ("train/loss", "val/loss"), "PSNR of rollouts, dB": ("rollout/psnr_1", "rollout/psnr_8")}


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model that is ready for inference."""

    model: WorldModel
    weights_hash: str
    name: str  # shown to players; contains no absolute path


def load_checkpoint(checkpoint: Path | str, device: torch.device, bf16: bool | None = None) -> LoadedCheckpoint:
    """Load a checkpoint from a folder or from the Hub."""
    model = WorldModel.from_pretrained(checkpoint)
    path = Path(checkpoint)
    name = "/".join(path.parts[-3:]) if path.is_absolute() else str(checkpoint)  # players must not see where files are
    return LoadedCheckpoint(prepare_for_inference(model, device, bf16), hash_weights(model), name)


def latest_checkpoint(path: Path) -> Path:
    """The link to a run's newest checkpoint, from RUN, RUN/checkpoints or RUN/checkpoints/latest."""
    for link in (path / "checkpoints" / LATEST, path / LATEST, path):
        if link.name == LATEST and link.exists():
            return link
    raise ValueError(f"{path} has no checkpoint to follow: a run writes checkpoints/{LATEST} with its first checkpoint")


class CheckpointFollower:
    """Loads a run's newest checkpoint, to which `link` leads, whenever it is another than `loaded_folder`."""

    def __init__(
        self, link: Path, loaded_folder: Path, device: torch.device, poll_secs: float, bf16: bool | None = None
    ):
        self._link, self._loaded_folder, self.poll_secs = link, loaded_folder, poll_secs
        self._device, self._bf16, self.run_folder = device, bf16, link.parent.parent

    def poll(self) -> LoadedCheckpoint | None:
        """Load the newest checkpoint if it is not the loaded one. A damaged one is skipped with one warning."""
        try:
            folder = follow_link(self._link).resolve(strict=True)
        except (OSError, ValueError):  # it is being replaced
            return None
        if folder == self._loaded_folder:
            return None
        self._loaded_folder = folder
        try:
            return load_checkpoint(folder, self._device, self._bf16)
        except (ValueError, OSError) as error:
            if folder.is_dir():  # otherwise the run has deleted it and written a newer one
                print(f"warning: skipped {folder}: {error}", file=sys.stderr)
            return None


def curves(run_folder: Path) -> list[pd.DataFrame]:
    """For each of CURVES a table with the columns step, value and metric; empty before the first metrics."""
    path = run_folder / METRICS_FILE
    lines = read_metrics(path) if path.is_file() else []
    return [_table(lines, names, is_log="log10" in title) for title, names in CURVES.items()]


def _table(lines: list[dict], names: tuple[str, ...], is_log: bool) -> pd.DataFrame:
    rows = []
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        for step, value in points[:: max(1, math.ceil(len(points) / MAX_POINTS))]:
            if value > 0 or not is_log:
                rows.append((step, math.log10(value) if is_log else value, name))
    return pd.DataFrame(rows, columns=["step", "value", "metric"]).astype({"step": float, "value": float})


def newest_strip(run_folder: Path) -> Path | None:
    """The newest action strip of a run, an mp4; None before the first one. A link could lead to any file."""
    strips = (path for path in run_folder.glob(ACTION_STRIPS) if path.is_file() and not path.is_symlink())
    return max(strips, default=None)
