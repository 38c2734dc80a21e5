"""Newer weights from a run that is still training."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from model import WorldModel
from training.checkpoint import LATEST, hash_weights
from training.device import prepare_for_inference


@dataclass(frozen=True)
class Weights:
    """A model ready to dream."""

    model: WorldModel
    weights: str  # hash
    name: str


def load_weights(checkpoint: Path | str, device: torch.device) -> Weights:
    """A checkpoint's, from a folder or from the Hub.

    Raises:
        ValueError: no checkpoint there, or a damaged one.
    """
    model = WorldModel.from_pretrained(checkpoint)
    path = Path(checkpoint)
    # Players are told the name: not where on this machine it is.
    name = "/".join(path.parts[-3:]) if path.is_absolute() else str(checkpoint)
    return Weights(prepare_for_inference(model, device), hash_weights(model), name)


def latest_checkpoint(path: Path) -> Path:
    """The link to the newest checkpoint of a run: of RUN, RUN/checkpoints or RUN/checkpoints/latest.

    Raises:
        ValueError: there is none (yet).
    """
    for link in (path / "checkpoints" / LATEST, path / LATEST, path):
        if link.name == LATEST and link.is_dir():
            return link
    raise ValueError(f"nothing to follow in {path}: a run that has saved its first checkpoint has checkpoints/{LATEST}")


class Follower:
    """Sees when a run's newest checkpoint is another one.

    Args:
        link: to it, as from `latest_checkpoint`.
        now: the folder that has been loaded already.
    """

    POLL_SECS: ClassVar[float] = 2.0

    def __init__(self, link: Path, now: Path, device: torch.device):
        self._link, self._now, self._device = link, now, device

    def newer(self) -> Weights | None:
        """What has been saved since; None: nothing. What cannot be read is warned of once, and passed over."""
        try:
            folder = self._link.resolve(strict=True)
        except OSError:
            return None
        if folder == self._now:
            return None
        try:
            loaded = load_weights(folder, self._device)
        except (ValueError, OSError) as error:
            if not folder.is_dir():
                return None  # it has been replaced by a newer one meanwhile
            self._now = folder
            print(f"warning: {folder} is passed over: {error}", file=sys.stderr)
            return None
        self._now = folder
        return loaded
