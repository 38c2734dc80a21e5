"""Checkpoint folders: written whole or not at all.

`RUN/checkpoints/step_0000500/` holds config.json and model.safetensors (EMA weights), which
`WorldModel.from_pretrained` reads, and training_state.pt; the link `RUN/checkpoints/latest` names the newest.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from model.dit import WorldModel

STATE_FILE = "training_state.pt"
LATEST = "latest"


def save_checkpoint(run_folder: Path, step: int, ema: WorldModel, state: dict, keep: int) -> Path:
    """Write a checkpoint, point `latest` at it, and drop all but the newest `keep`.

    Args:
        ema: the averaged weights, which are what others load.
        state: tensors and plain values, enough to go on training.
    """
    root = run_folder / "checkpoints"
    final = root / f"step_{step:07d}"
    temporary = root / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    ema.save_pretrained(temporary)
    torch.save(state, temporary / STATE_FILE)
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    link = root / f".{LATEST}.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    link.rename(root / LATEST)
    for old in list_checkpoints(run_folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step_*"))


def find_resume(resume: str, run_folder: Path) -> Path | None:
    """The checkpoint that `--resume` means; None for a new run.

    Raises:
        ValueError: a path without a training state.
    """
    if not resume:
        return None
    if resume == "auto":
        whole = [path for path in list_checkpoints(run_folder) if (path / STATE_FILE).is_file()]
        return whole[-1] if whole else None
    path = Path(resume)
    if not (path / STATE_FILE).is_file():
        raise ValueError(f"cannot resume from {path}: it has no {STATE_FILE}")
    return path


def load_state(checkpoint: Path) -> dict:
    """The training state of a checkpoint, on the CPU.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{checkpoint / STATE_FILE} is damaged: {error}") from None
