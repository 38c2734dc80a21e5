"""The state of a run: everything that changes from step to step, and the checkpoints that hold it.

`RUN/checkpoints/step_0000500/` holds config.json and model.safetensors (EMA weights), which
`WorldModel.from_pretrained` reads, training_state.pt, and manifest.json with the size and SHA-256 of each.
The links `latest` and `best` in `RUN/checkpoints/` lead to the newest and to the one with the lowest validation loss.
Where links cannot be made they are text files.
"""

import hashlib
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamrun.data.atomic import atomic_folder
from dreamrun.games.untrusted import read_json
from dreamrun.model.checkpoint import BEST, CONFIG_FILE, GAME_FILE, LATEST, WEIGHTS_FILE
from dreamrun.model.dit import WorldModel
from dreamrun.shipped import follow_link
from dreamrun.training.distributed import all_gather_object, print0, rank
from dreamrun.training.generated_context import SelfForcing
from dreamrun.training.optimizer import AdamW, MuonAndAdamW, optimizer_name

STATE_FILE, MANIFEST_FILE = "training_state.pt", "manifest.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # no path that leads out of the checkpoint


class StepSummary(NamedTuple):
    """What `StepStats` has counted since its last `read`."""

    mean_loss: float  # over the good steps; NaN if there were none
    num_bad_steps: int  # since the run began
    max_bad_streak: int  # the largest number of consecutive bad steps


_OLD_NAMES = {"max_bad_streak": "worst_streak"}  # in checkpoints of earlier versions


class StepStats:
    """Sums of losses and counts of bad steps. They are kept on the device, so that no step waits for it.

    A step is bad if its loss or its gradient norm is not finite.
    """

    def __init__(self, device: torch.device):
        names = ("loss_sum", "good", "bad", "streak", "max_bad_streak")
        self._counts = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}

    def add(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Count a step with these scalars. Returns a float32 scalar: 1 if the step is bad, else 0."""
        counts, good = self._counts, loss.isfinite() & grad_norm.isfinite()
        counts["loss_sum"] += torch.where(good, loss, 0.0)
        counts["good"] += good
        counts["bad"] += ~good
        counts["streak"] += 1
        counts["streak"] *= ~good
        torch.maximum(counts["max_bad_streak"], counts["streak"], out=counts["max_bad_streak"])
        return (~good).float()

    def max_bad_streak(self) -> int:
        """The largest number of consecutive bad steps since the last `read`. Waits for the device."""
        return int(self._counts["max_bad_streak"])

    def read(self) -> StepSummary:
        """Return the counts, then reset all but the total number of bad steps. Waits for the device."""
        counts = dict(zip(self._counts, torch.stack([*self._counts.values()]).tolist(), strict=True))
        mean_loss = counts["loss_sum"] / counts["good"] if counts["good"] else math.nan
        for name in ("loss_sum", "good", "max_bad_streak"):
            self._counts[name].zero_()
        return StepSummary(mean_loss, int(counts["bad"]), int(counts["max_bad_streak"]))

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, for a checkpoint."""
        return self._counts

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the counts of a checkpoint."""
        for name, count in self._counts.items():
            count.copy_(state[name if name in state else _OLD_NAMES[name]])


@dataclass
class TrainState:
    """Model, averaged weights, optimizer and counters of a run."""

    model: WorldModel  # trained, float32
    network: nn.Module  # the model as the loss calls it: wrapped in DDP if there are several ranks
    ema: WorldModel  # exponential moving average of the weights; validated, saved and played
    optimizer: AdamW | MuonAndAdamW
    self_forcing: SelfForcing  # of the averaged weights
    stats: StepStats
    order: dict[str, int]  # what the order of batches depends on: `ClipDataset.order_fingerprint`
    step: int = 0  # optimizer steps done
    epoch: int = 0
    batch: int = 0  # batches of this epoch done
    wandb_id: str | None = None  # of the Weights & Biases run

    def state_dict(self) -> dict[str, Any]:
        """The contents of `training_state.pt`. The averaged weights are saved beside it, as `model.safetensors`."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "order": self.order,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counts": self.stats.state_dict(),
            "wandb_id": self.wandb_id,
        }

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Restore the state from a checkpoint folder. If the batch order has changed, starts the next epoch."""
        ema = WorldModel.from_pretrained(str(checkpoint))
        state = load_state(checkpoint)
        saved = {**ema.config.to_dict(), **ema.game.to_dict(), "optimizer": optimizer_name(state["optimizer"])}
        config, game = self.model.config.to_dict(), self.model.game.to_dict()
        now = {**config, **game, "optimizer": optimizer_name(self.optimizer.state_dict())}
        now.pop("can_fill")  # a run may begin to fill in frames, or cease to, at any step
        differences = [
            f"its {name} is {saved.get(name)}, this run's is {now[name]}"
            for name in now
            if saved.get(name) != now[name]
        ]
        if differences:
            raise ValueError(f"cannot resume from {checkpoint}: {'; '.join(differences)}")
        self.ema.load_state_dict(ema.state_dict())
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stats.load_state_dict(state["counts"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.wandb_id = state["wandb_id"]
        before, names = state["order"], list(dict.fromkeys((*state["order"], *self.order)))
        changes = [f"{n} {before.get(n)} -> {self.order.get(n)}" for n in names if before.get(n) != self.order.get(n)]
        if changes:
            print0(f"warning: the order of batches has changed ({', '.join(changes)}): a new epoch begins", sys.stderr)
            self.epoch, self.batch = self.epoch + 1, 0


def save_checkpoint(
    run_folder: Path, ema: WorldModel, state: dict[str, Any], keep: int, val_loss: float | None = None
) -> Path:
    """Write a checkpoint, update the links, and delete old checkpoints: all but the newest `keep` and the best.

    Checkpoints of later steps are deleted too: the run was resumed from an earlier step.

    Args:
        ema: the averaged weights, which users of the checkpoint load.
        state: tensors and plain values, all that training needs to continue, with its "step".
        val_loss: validation loss at this step, if it was measured.

    Raises:
        OSError, RuntimeError, SafetensorError: it cannot be written, for example because the disk is full.
    """
    folder = checkpoint_folder(run_folder, state["step"])
    with atomic_folder(folder, replace=True) as temporary:
        ema.save_pretrained(temporary)
        torch.save(state, temporary / STATE_FILE)
        files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
        is_measured = val_loss is not None and math.isfinite(val_loss)
        manifest = {"step": state["step"], "val_loss": val_loss if is_measured else None, "files": files}
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
    _update_links_and_delete_old(folder, keep)
    return folder


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run_folder / "checkpoints" / f"step_{step:07d}"


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folders = (run_folder / "checkpoints").glob("step_*")
    return sorted(path for path in folders if path.name[5:].isdecimal())  # no copy that a user has named


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


def find_start(resume: str, run_folder: Path, is_restart: bool = False) -> Path | None:
    """The checkpoint that a run starts from; None for a new run.

    Args:
        resume: "auto": the newest undamaged checkpoint of the run folder, with a warning of damaged ones; the path of a
            checkpoint; or "".
        is_restart: torchrun has restarted this run, on any machine: it continues from its own newest checkpoint.
    """
    found = _newest_undamaged(run_folder) if resume == "auto" or is_restart else None
    if found is None and resume not in ("", "auto"):
        found = follow_link(Path(resume))
        if damage := find_damage(found):
            raise ValueError(f"cannot resume from {resume}: {damage}")
    is_own = found is not None and found.resolve().parent == (run_folder / "checkpoints").resolve()
    if not is_own and list_checkpoints(run_folder):
        raise ValueError(f"{run_folder} already holds a run: continue it with --resume auto, or choose another --out")
    return found


def _newest_undamaged(run_folder: Path) -> Path | None:
    checkpoints = list_checkpoints(run_folder)
    for path in reversed(checkpoints):
        damage = find_damage(path)
        if damage is None:
            return path
        print(f"warning: skipped the damaged checkpoint {path}: {damage}", file=sys.stderr)
    if checkpoints:
        raise ValueError(f"all checkpoints in {run_folder} are damaged: start again with another --out")
    return None


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The training state of a checkpoint, on the CPU."""
    try:
        return torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        # torch's message goes on with advice to load the file in an unsafe way.
        reason = str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
        raise ValueError(f"{checkpoint / STATE_FILE} is damaged: {reason}") from None


class CheckpointWriter:
    """Writes checkpoints in a thread, one at a time. If a checkpoint cannot be written, it warns and training goes on.

    Every rank makes one; on ranks above 0 it writes nothing.

    Args:
        keep: number of newest checkpoints to keep.
        latest: the newest checkpoint so far.
    """

    def __init__(self, run_folder: Path, ema: WorldModel, keep: int, latest: Path | None = None):
        self._latest, self._error = latest, ""
        self._run_folder, self._keep = run_folder, keep
        self._in_flight: Future | None = None
        if rank() > 0:
            return
        self._ema = WorldModel(ema.config, ema.game)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        for leftover in (run_folder / "checkpoints").glob(".step_*.tmp"):  # of a run that was killed while saving
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()

    def save(self, state: TrainState, val_loss: float | None = None) -> None:
        """Copy everything to the CPU, and write it while training continues."""
        if rank() > 0 or self._finish() == checkpoint_folder(self._run_folder, state.step):
            return
        self._ema.load_state_dict(state.ema.state_dict())
        self._in_flight = self._thread.submit(self._write, copy_to_cpu(state.state_dict()), val_loss)

    def wait(self) -> tuple[Path | None, str]:
        """Wait until nothing is being written. Every rank must call this.

        Returns the newest complete checkpoint, and why the last one could not be saved, "" if it was.
        """
        self._finish()
        return all_gather_object((self._latest, self._error))[0]

    def close(self) -> None:
        """Wait, then end the thread."""
        if rank() == 0:
            self._finish()
            self._thread.shutdown()

    def _finish(self) -> Path | None:
        if self._in_flight:
            self._in_flight.result()
        self._in_flight = None
        return self._latest

    def _write(self, state: dict[str, Any], val_loss: float | None) -> None:
        try:
            self._latest = save_checkpoint(self._run_folder, self._ema, state, self._keep, val_loss)
            self._error = ""
        except Exception as error:  # a full disk raises OSError, RuntimeError or SafetensorError, not all say so
            reason = " ".join(str(error).split()) or type(error).__name__
            free = shutil.disk_usage(self._run_folder).free / 2**20
            self._error = f"step {state['step']} could not be saved ({free:.0f} MiB are free on the disk): {reason}"
            print(f"warning: {self._error}", file=sys.stderr)


def copy_to_cpu(state: Any) -> Any:
    """Copy nested dicts and lists, with all tensors on the CPU. Later training steps do not change the copy."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copy_to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copy_to_cpu(value) for value in state)
    return state


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


def _update_links_and_delete_old(current: Path, keep: int) -> None:
    checkpoints = list_checkpoints(current.parent.parent)
    up_to_now = checkpoints[: checkpoints.index(current) + 1]
    val_losses = {path: (_read_manifest(path) or {}).get("val_loss") for path in up_to_now}
    measured = {path: loss for path, loss in val_losses.items() if loss is not None}
    best = min(measured, key=lambda path: measured[path], default=None)
    with _only_warn():
        _link(current, LATEST)
    with _only_warn():
        if best:
            _link(best, BEST)
    for path in checkpoints:
        if path != best and path not in up_to_now[-keep:]:
            with _only_warn():
                _delete(path)


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint, but no file that someone else has put into its folder."""
    for name in (MANIFEST_FILE, STATE_FILE, WEIGHTS_FILE, CONFIG_FILE, GAME_FILE, "README.md"):
        (checkpoint / name).unlink(missing_ok=True)
    if not any(checkpoint.iterdir()):
        checkpoint.rmdir()


@contextmanager
def _only_warn() -> Iterator[None]:
    """Whatever fails after a checkpoint is written, it is saved."""
    try:
        yield
    except OSError as error:
        print(f"warning: the checkpoint is saved, but {error}", file=sys.stderr)


def _link(checkpoint: Path, name: str) -> None:
    """Make a link, or a text file if the file system knows no links (exFAT, cloud drives). `follow_link` reads both."""
    path, temporary = checkpoint.parent / name, checkpoint.parent / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(checkpoint.name)
    except (OSError, NotImplementedError):
        temporary.write_text(checkpoint.name + "\n")
    temporary.replace(path)
