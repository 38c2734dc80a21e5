"""Checkpoint folders: written whole or not at all, beside the training, and checked before they are used.

`RUN/checkpoints/step_0000500/` holds config.json and model.safetensors (EMA weights), which
`WorldModel.from_pretrained` reads, training_state.pt, and manifest.json with the size and SHA-256 of each.
The links `latest` and `best` in `RUN/checkpoints/` name the newest, and the one with the lowest validation loss.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from model.dit import WorldModel

STATE_FILE, MANIFEST_FILE = "training_state.pt", "manifest.json"
LATEST, BEST = "latest", "best"


def save_checkpoint(
    run_folder: Path, step: int, ema: WorldModel, state: dict, keep: int, val_loss: float | None = None
) -> Path:
    """Write a checkpoint, set the links, and drop all but the newest `keep` and the best.

    Checkpoints of later steps are dropped as well: the run has gone back behind them.

    Args:
        ema: the averaged weights, which are what others load.
        state: tensors and plain values, enough to go on training.
        val_loss: measured at this step, if it was.
    """
    root = run_folder / "checkpoints"
    final = _folder(run_folder, step)
    temporary = root / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        ema.save_pretrained(temporary)
        torch.save(state, temporary / STATE_FILE)
        # Not of the model card, which people may edit.
        files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir()) if path.suffix != ".md"}
        known = val_loss is not None and math.isfinite(val_loss)
        manifest = {"step": step, "val_loss": val_loss if known else None, "files": files}
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room
        raise
    _tidy(run_folder, step, keep)
    return final


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step_*"))


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, after reading all of it; None: nothing."""
    if not checkpoint.is_dir():
        return "there is no such folder"
    manifest = _manifest(checkpoint)
    if manifest is None:
        return f"it has no readable {MANIFEST_FILE}"
    for name, expected in manifest["files"].items():
        try:
            size = (checkpoint / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes of {expected['bytes']}"
            if _fingerprint(checkpoint / name) != expected:
                return f"{name} has changed since it was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def find_checkpoint_to_resume(resume: str, run_folder: Path) -> Path | None:
    """The checkpoint that `--resume` means; None for a new run. What is damaged is warned of and passed over.

    Raises:
        ValueError: a path that is no whole checkpoint; or "auto" where all are damaged.
    """
    if resume == "auto":
        checkpoints = list_checkpoints(run_folder)
        for path in reversed(checkpoints):
            wrong = find_damage(path)
            if wrong is None:
                return path
            print(f"warning: {path} is damaged and passed over: {wrong}", file=sys.stderr)
        if checkpoints:
            raise ValueError(f"all checkpoints in {run_folder} are damaged: start anew with another --out")
        return None
    if not resume:
        return None
    wrong = find_damage(Path(resume))
    if wrong is not None:
        raise ValueError(f"cannot resume from {resume}: {wrong}")
    return Path(resume)


def load_state(checkpoint: Path) -> dict:
    """The training state of a checkpoint, on the CPU.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{checkpoint / STATE_FILE} is damaged: {error}") from None


def hash_weights(model: WorldModel) -> str:
    """SHA-256 of a model's weights as they were saved, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def copy_to_cpu(state: Any) -> Any:
    """A copy of nested dicts and lists, its tensors on the CPU, that what happens next does not change."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copy_to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copy_to_cpu(value) for value in state)
    return state


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time. One that cannot be written costs a warning, not the run.

    Args:
        ema: of the sizes to be written; copied.
        saved: the newest checkpoint there is.
    """

    def __init__(self, run_folder: Path, ema: WorldModel, keep: int, saved: Path | None = None):
        self.saved = saved  # the newest whole one
        self._run_folder, self._keep = run_folder, keep
        self._ema = WorldModel(ema.config, ema.game)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._in_flight: Future | None = None
        for leftover in (run_folder / "checkpoints").glob(".*.tmp"):  # of a run that was killed while it saved
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink()

    def save(self, step: int, ema: WorldModel, state: dict, val_loss: float | None = None) -> None:
        """Copy everything to the CPU, and write it while the training goes on."""
        if self.wait() == _folder(self._run_folder, step):
            return
        self._ema.load_state_dict(ema.state_dict())
        self._in_flight = self._thread.submit(self._write, step, copy_to_cpu(state), val_loss)

    def wait(self) -> Path | None:
        """Until nothing is being written; the newest whole checkpoint."""
        if self._in_flight:
            self._in_flight.result()
        self._in_flight = None
        return self.saved

    def close(self) -> None:
        """Wait, and end the thread."""
        self.wait()
        self._thread.shutdown()

    def _write(self, step: int, state: dict, val_loss: float | None) -> None:
        try:
            self.saved = save_checkpoint(self._run_folder, step, self._ema, state, self._keep, val_loss)
        except Exception as error:  # a full disk comes as OSError, RuntimeError or SafetensorError
            print(f"warning: step {step} could not be saved: {error}", file=sys.stderr)


def _folder(run_folder: Path, step: int) -> Path:
    return run_folder / "checkpoints" / f"step_{step:07d}"


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _manifest(checkpoint: Path) -> dict | None:
    try:
        manifest = json.loads((checkpoint / MANIFEST_FILE).read_text())
        return manifest if {STATE_FILE} < manifest["files"].keys() else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _tidy(run_folder: Path, step: int, keep: int) -> None:
    checkpoints = list_checkpoints(run_folder)
    now = checkpoints.index(_folder(run_folder, step))
    losses = {path: (_manifest(path) or {}).get("val_loss") for path in checkpoints[: now + 1]}
    measured = [path for path in losses if losses[path] is not None]
    best = min(measured, key=losses.get, default=None)
    _link(checkpoints[now], LATEST)
    if best:
        _link(best, BEST)
    kept = {best, *checkpoints[: now + 1][-keep:]}
    for path in checkpoints:
        if path not in kept:
            shutil.rmtree(path)


def _link(checkpoint: Path, name: str) -> None:
    temporary = checkpoint.parent / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    temporary.rename(checkpoint.parent / name)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
