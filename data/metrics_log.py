"""The metrics of a run: `metrics.jsonl` and Weights & Biases, and the names of what else a run folder holds."""

import contextlib
import json
import math
import netrc
import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

from dreamrun.data.atomic import write_text

METRICS_FILE = "metrics.jsonl"
COMMANDS_FILE = "commands.jsonl"  # the command lines that started a training
TRAIN_CONFIG_FILE = "train_config.json"
ACTION_STRIPS = "rollouts/step_*_actions.mp4"
# Of what is read from metrics.jsonl. Matplotlib fails on numbers close to the largest float.
MAX_STEP, MAX_METRIC, MAX_LINE_BYTES = 2**53, 1e100, 2**20


class MetricsLog:
    """Writes one JSON object a line to `metrics.jsonl`, and the same metrics to Weights & Biases.

    Training works without Weights & Biases and never waits for it.

    Args:
        step: steps done so far. Lines of later steps, from before a resume, are dropped. At 0 an old file is renamed.
        mode: "auto", "online", "offline" or "off", of Weights & Biases.
        settings: shown there as the config of the run.
        wandb_id: of the Weights & Biases run to continue.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        mode: str,
        project: str,
        entity: str | None,
        settings: dict,
        wandb_id: str | None = None,
    ):
        self._path, self._is_failing = folder / METRICS_FILE, False
        _drop_later_lines(self._path, step)
        self._wandb = _start_wandb(folder, mode, project, entity, settings, wandb_id)
        self.wandb_id: str | None = self._wandb.id if self._wandb else wandb_id

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write metrics, named like `train/loss`. Values that are not finite are left out: JSON cannot hold them.

        On a full disk the line is lost, with a warning for the first of several lost lines.
        """
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                print(f"warning: cannot write the metrics of step {step} to {self._path}: {error}", file=sys.stderr)
            self._is_failing = True
            with contextlib.suppress(OSError):
                os.truncate(self._path, size)  # remove a partial line
        self._send(metrics, step)

    def log_media(self, step: int, name: str, path: Path) -> None:
        """Send an mp4 or an image to Weights & Biases."""
        if self._wandb:
            import wandb

            is_video = path.suffix == ".mp4"
            self._send({name: wandb.Video(str(path), format="mp4") if is_video else wandb.Image(str(path))}, step)

    def close(self) -> None:
        """Finish the Weights & Biases run."""
        if self._wandb:
            self._wandb.finish()

    def _send(self, values: dict, step: int) -> None:
        if self._wandb:
            try:
                self._wandb.log(values, step=step)
            except Exception as error:  # training goes on without the connection
                print(f"warning: Weights & Biases: {error}; training continues without it", file=sys.stderr)
                self._wandb = None


def read_metrics(path: Path) -> list[dict]:
    """The lines of `metrics.jsonl`, each with a "step" and finite numbers. Other lines and values are left out.

    The file may come from a stranger, or end in the middle of a line because its process was killed.
    """
    return [
        {name: value for name, value in line.items() if _is_number(value)}
        for line in read_json_lines(path)
        if type(line.get("step")) is int and 0 <= line["step"] <= MAX_STEP
    ]


def read_json_lines(path: Path) -> list[dict]:
    """The objects of a JSON lines file. Lines that hold something else, or more than MAX_LINE_BYTES, are left out."""
    with path.open("rb") as file:
        lines = [line for line in file if len(line) <= MAX_LINE_BYTES]
    return [values for line in lines if isinstance(values := _parse_line(line), dict)]


def append_command(run_folder: Path, command: str, step: int) -> None:
    """Note in `commands.jsonl` with which command training started and at which step. Model cards show it."""
    with (run_folder / COMMANDS_FILE).open("a") as file:
        file.write(json.dumps({"command": command, "step": step}) + "\n")


def _drop_later_lines(path: Path, step: int) -> None:
    if not path.is_file():
        return
    if step == 0:  # a new run, in a folder whose checkpoints are gone
        path.rename(next(p for n in count(1) if not (p := path.with_stem(f"{path.stem}_{n}")).exists()))
        return
    lines = [values for values in read_metrics(path) if values["step"] <= step]
    write_text(path, "".join(json.dumps(values) + "\n" for values in lines))


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # also of text that is not UTF-8
        return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_METRIC  # NaN is not


def _is_logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _start_wandb(folder: Path, mode: str, project: str, entity: str | None, settings: dict, wandb_id: str | None):
    """Start a Weights & Biases run, or return None. It never prompts: without an account, "online" is "offline"."""
    if mode == "auto":
        mode = "online" if _is_logged_in() else "off"
    if mode == "off":
        return None
    if mode == "online" and not _is_logged_in():
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
            mode=mode,  # type: ignore[arg-type]
            id=wandb_id,
            resume="allow" if wandb_id else None,
            settings=wandb.Settings(console="off", silent=True),
        )
    except Exception as error:  # training works without it
        print(f"warning: Weights & Biases could not start: {error}; training continues without it", file=sys.stderr)
        return None
