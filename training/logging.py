"""Where a run's numbers go: metrics.jsonl always, Weights & Biases when there is an account."""

from __future__ import annotations

import contextlib
import json
import netrc
import os
import sys
from pathlib import Path

from data.atomic import atomic_file

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """An object a line in `metrics.jsonl`; the same numbers to Weights & Biases, which is never waited for nor needed.

    Args:
        step: steps done so far; lines of later steps, from before a resume, are dropped.
        run_id: of the Weights & Biases run to go on with.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        mode: str,
        project: str,
        entity: str | None,
        settings: dict,
        run_id: str | None = None,
    ):
        self._path = folder / METRICS_FILE
        _drop_later_lines(self._path, step)
        self._wandb = _start_wandb(folder, mode, project, entity, settings, run_id)
        self.run_id: str | None = self._wandb.id if self._wandb else run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write numbers, named like `train/loss`. A full disk costs the line and a warning."""
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            print(f"warning: {self._path}, step {step}: {error}", file=sys.stderr)
            with contextlib.suppress(OSError):
                os.truncate(self._path, size)  # no half line
        self._send(values, step)

    def show(self, step: int, name: str, path: Path) -> None:
        """Send an mp4 or a picture to Weights & Biases."""
        if self._wandb:
            import wandb

            video = path.suffix == ".mp4"
            self._send({name: wandb.Video(str(path), format="mp4") if video else wandb.Image(str(path))}, step)

    def close(self) -> None:
        """Finish the Weights & Biases run."""
        if self._wandb:
            self._wandb.finish()

    def _send(self, values: dict, step: int) -> None:
        if self._wandb:
            try:
                self._wandb.log(values, step=step)
            except Exception as error:  # a lost connection must not cost the run
                print(f"warning: Weights & Biases: {error}; going on without it", file=sys.stderr)
                self._wandb = None


def read_metrics(path: Path) -> list[dict]:
    """The objects of a metrics file; a line that was cut off by a kill is passed over."""
    return [values for line in path.read_text().splitlines() if (values := _values(line))]


def _drop_later_lines(path: Path, step: int) -> None:
    if not path.is_file():
        return
    kept = [values for values in read_metrics(path) if values["step"] <= step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(json.dumps(values) + "\n" for values in kept))


def _values(line: str) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _start_wandb(folder: Path, mode: str, project: str, entity: str | None, settings: dict, run_id: str | None):
    """A Weights & Biases run, or None. Never prompts: without an account "online" becomes "offline"."""
    if mode == "auto":
        mode = "online" if _logged_in() else "off"
    if mode == "off":
        return None
    if mode == "online" and not _logged_in():
        print("warning: not logged in to Weights & Biases: logging offline (wandb login, wandb sync)", file=sys.stderr)
        mode = "offline"
    try:
        import wandb

        return wandb.init(
            project=project,
            entity=entity,
            dir=str(folder),
            name=folder.name,
            config=settings,
            mode=mode,
            id=run_id,
            resume="allow" if run_id else None,
            settings=wandb.Settings(console="off", silent=True),
        )
    except Exception as error:  # whatever it is, training matters more
        print(f"warning: Weights & Biases could not start: {error}; going on without it", file=sys.stderr)
        return None
