"""Loading a checkpoint for playing, and following a run that is still training."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from dreamrun.model import WorldModel
from dreamrun.model.checkpoint import LATEST, hash_weights
from dreamrun.model.inference import prepare_for_inference


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model that is ready for inference."""

    model: WorldModel
    weights_hash: str
    name: str  # shown to players; contains no absolute path


def load_checkpoint(checkpoint: Path | str, device: torch.device) -> LoadedCheckpoint:
    """Load a checkpoint from a folder or from the Hub.

    Raises:
        ValueError: there is no checkpoint, or it is damaged.
    """
    model = WorldModel.from_pretrained(checkpoint)
    path = Path(checkpoint)
    name = "/".join(path.parts[-3:]) if path.is_absolute() else str(checkpoint)  # players must not see where files are
    return LoadedCheckpoint(prepare_for_inference(model, device), hash_weights(model), name)


def latest_checkpoint(path: Path) -> Path:
    """The link to a run's newest checkpoint, from RUN, RUN/checkpoints or RUN/checkpoints/latest.

    Raises:
        ValueError: the run has no checkpoint yet.
    """
    for link in (path / "checkpoints" / LATEST, path / LATEST, path):
        if link.name == LATEST and link.is_dir():
            return link
    raise ValueError(f"{path} has no checkpoint to follow: a run writes checkpoints/{LATEST} with its first checkpoint")


class CheckpointFollower:
    """Loads a run's newest checkpoint whenever it changes.

    Args:
        link: the link to the newest checkpoint, as `latest_checkpoint` returns it.
        loaded_folder: the checkpoint folder that is already loaded.
    """

    POLL_SECS: ClassVar[float] = 2.0

    def __init__(self, link: Path, loaded_folder: Path, device: torch.device):
        self._link, self._loaded_folder, self._device = link, loaded_folder, device

    @property
    def run_folder(self) -> Path:
        """Folder of the run."""
        return self._link.parent.parent

    def poll(self) -> LoadedCheckpoint | None:
        """Load the newest checkpoint if it is not the loaded one. A damaged one is skipped with one warning."""
        try:
            folder = self._link.resolve(strict=True)
        except OSError:
            return None
        if folder == self._loaded_folder:
            return None
        try:
            loaded = load_checkpoint(folder, self._device)
        except (ValueError, OSError) as error:
            if not folder.is_dir():
                return None  # the run has deleted it and written a newer one
            self._loaded_folder = folder
            print(f"warning: skipped {folder}: {error}", file=sys.stderr)
            return None
        self._loaded_folder = folder
        return loaded
