"""Checkpoint folders: written atomically, in a background thread, and verified before they are used.

`RUN/checkpoints/step_0000500/` holds config.json and model.safetensors (EMA weights), which
`WorldModel.from_pretrained` reads, training_state.pt, and manifest.json with the size and SHA-256 of each.
The links `latest` and `best` in `RUN/checkpoints/` lead to the newest and to the one with the lowest validation loss.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dreamrun.data.atomic import atomic_folder
from dreamrun.games.untrusted import read_json
from dreamrun.model.checkpoint import BEST, LATEST
from dreamrun.model.dit import WorldModel

STATE_FILE, MANIFEST_FILE = "training_state.pt", "manifest.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # no path that leads out of the checkpoint


class CheckpointNotSavedError(Exception):
    """A run has ended, but its last checkpoint could not be saved. Shown as one line, exit code 1."""


def save_checkpoint(
    run_folder: Path, step: int, ema: WorldModel, state: dict, keep: int, val_loss: float | None = None
) -> Path:
    """Write a checkpoint, update the links, and delete old checkpoints: all but the newest `keep` and the best.

    Checkpoints of later steps are deleted too: the run was resumed from an earlier step.

    Args:
        ema: the averaged weights, which users of the checkpoint load.
        state: tensors and plain values, all that training needs to continue.
        val_loss: validation loss at this step, if it was measured.

    Raises:
        OSError, RuntimeError, SafetensorError: it cannot be written, for example because the disk is full.
    """
    folder = checkpoint_folder(run_folder, step)
    with atomic_folder(folder, replace=True) as temporary:
        ema.save_pretrained(temporary)
        torch.save(state, temporary / STATE_FILE)
        # The fingerprints leave out the model card, because people may edit it.
        files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir()) if path.suffix != ".md"}
        is_measured = val_loss is not None and math.isfinite(val_loss)
        manifest = {"step": step, "val_loss": val_loss if is_measured else None, "files": files}
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
    _update_links_and_delete_old(run_folder, step, keep)
    return folder


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run_folder / "checkpoints" / f"step_{step:07d}"


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step_*"))


def find_damage(checkpoint: Path) -> str | None:
    """Read a whole checkpoint and describe what is wrong with it; None if nothing is."""
    if not checkpoint.is_dir():
        return "there is no such folder"
    manifest = _read_manifest(checkpoint)
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
    """The checkpoint that the option `resume` means; None for a new run.

    "auto" means the newest undamaged checkpoint of the run folder; it warns of damaged ones.

    Raises:
        ValueError: the path is not an undamaged checkpoint; or "auto", and all checkpoints are damaged.
    """
    if resume == "auto":
        checkpoints = list_checkpoints(run_folder)
        for path in reversed(checkpoints):
            damage = find_damage(path)
            if damage is None:
                return path
            print(f"warning: skipped the damaged checkpoint {path}: {damage}", file=sys.stderr)
        if checkpoints:
            raise ValueError(f"all checkpoints in {run_folder} are damaged: start again with another --out")
        return None
    if not resume:
        return None
    damage = find_damage(Path(resume))
    if damage is not None:
        raise ValueError(f"cannot resume from {resume}: {damage}")
    return Path(resume)


def find_start(resume: str, run_folder: Path, is_restart: bool = False) -> Path | None:
    """As `find_checkpoint_to_resume`, but a run that torchrun has restarted continues from its own newest checkpoint.

    Args:
        is_restart: torchrun has restarted this run, on any machine.

    Raises:
        ValueError: as above; or a new run would overwrite the checkpoints in the run folder.
    """
    found = find_checkpoint_to_resume("auto" if is_restart else resume, run_folder)
    if found is None and resume != "auto":
        found = find_checkpoint_to_resume(resume, run_folder)
    is_own = found is not None and found.resolve().parent == (run_folder / "checkpoints").resolve()
    if not is_own and list_checkpoints(run_folder):
        raise ValueError(f"{run_folder} already holds a run: continue it with --resume auto, or choose another --out")
    return found


def load_state(checkpoint: Path) -> dict:
    """The training state of a checkpoint, on the CPU.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    try:
        return torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        # torch's message goes on with advice to load the file in an unsafe way.
        reason = str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
        raise ValueError(f"{checkpoint / STATE_FILE} is damaged: {reason}") from None


def copy_to_cpu(state: Any) -> Any:
    """Copy nested dicts and lists, with all tensors on the CPU. Later training steps do not change the copy."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copy_to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copy_to_cpu(value) for value in state)
    return state


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time. If a checkpoint cannot be written, it warns and training goes on.

    `error` then says why, until a later checkpoint is complete.

    Args:
        ema: the averaged weights. Their sizes are used to allocate a copy.
        keep: number of newest checkpoints to keep.
        latest: the newest checkpoint so far.
    """

    def __init__(self, run_folder: Path, ema: WorldModel, keep: int, latest: Path | None = None):
        self.latest = latest  # the newest complete checkpoint
        self.error: str | None = None  # why the last checkpoint could not be saved
        self._run_folder, self._keep = run_folder, keep
        self._ema = WorldModel(ema.config, ema.game)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._in_flight: Future | None = None
        for leftover in (run_folder / "checkpoints").glob(".*.tmp"):  # of a run that was killed while saving
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()

    def save(self, step: int, ema: WorldModel, state: dict, val_loss: float | None = None) -> None:
        """Copy everything to the CPU, and write it while training continues."""
        if self.wait() == checkpoint_folder(self._run_folder, step):
            return
        self._ema.load_state_dict(ema.state_dict())
        self._in_flight = self._thread.submit(self._write, step, copy_to_cpu(state), val_loss)

    def wait(self) -> Path | None:
        """Wait until nothing is being written, and return the newest complete checkpoint."""
        if self._in_flight:
            self._in_flight.result()
        self._in_flight = None
        return self.latest

    def close(self) -> None:
        """Wait, then end the thread."""
        self.wait()
        self._thread.shutdown()

    def _write(self, step: int, state: dict, val_loss: float | None) -> None:
        try:
            self.latest = save_checkpoint(self._run_folder, step, self._ema, state, self._keep, val_loss)
            self.error = None
        except Exception as error:  # a full disk raises OSError, RuntimeError or SafetensorError
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = f"the disk is full ({reason})" if is_disk_full(error) else reason
            self.error = f"step {step} could not be saved: {reason}"
            print(f"warning: {self.error}", file=sys.stderr)


def is_disk_full(error: BaseException) -> bool:
    """Whether writing failed because the disk is full or a quota is used up.

    torch.save reports it as a RuntimeError, with the error of the operating system behind it or nowhere.
    """
    signs = ("No space left on device", "quota exceeded", "unexpected pos", "PytorchStreamWriter failed writing")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    behind = error.__cause__ or error.__context__
    return any(sign in str(error) for sign in signs) or (behind is not None and is_disk_full(behind))


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _read_manifest(checkpoint: Path) -> dict | None:
    try:
        manifest = read_json(checkpoint / MANIFEST_FILE)
        is_valid = {STATE_FILE} < manifest["files"].keys() and all(map(_FILE_NAME.fullmatch, manifest["files"]))
        return manifest if is_valid and all("bytes" in file for file in manifest["files"].values()) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _update_links_and_delete_old(run_folder: Path, step: int, keep: int) -> None:
    current = checkpoint_folder(run_folder, step)
    checkpoints = list_checkpoints(run_folder)
    up_to_now = checkpoints[: checkpoints.index(current) + 1]
    val_losses = {path: (_read_manifest(path) or {}).get("val_loss") for path in up_to_now}
    measured = {path: loss for path, loss in val_losses.items() if loss is not None}
    best = min(measured, key=lambda path: measured[path], default=None)
    _link(current, LATEST)
    if best:
        _link(best, BEST)
    for path in checkpoints:
        if path != best and path not in up_to_now[-keep:]:
            shutil.rmtree(path)


def _link(checkpoint: Path, name: str) -> None:
    temporary = checkpoint.parent / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    temporary.rename(checkpoint.parent / name)
