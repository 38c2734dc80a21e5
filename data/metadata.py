"""metadata.json: what a data set says of its game, frames and actions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.actions import ActionSpace, unnamed_actions
from data.atomic import atomic_file
from data.games.procgen_actions import PROCGEN_GAMES, procgen_actions

METADATA_FILE = "metadata.json"
MAX_FRAME_SIDE = 1024  # pixels; a record of larger frames would not fit in memory


@dataclass(frozen=True)
class Metadata:
    """The content of `metadata.json`. The defaults describe the public CoinRun set, which has no such file."""

    environment: str = "coinrun"  # the game, as `make_environment` names it
    environment_options: tuple[tuple[str, Any], ...] = ()  # keyword arguments of `make_environment`
    frame_shape: tuple[int, int, int] = (64, 64, 3)  # (H, W, C)
    fps: float = 15.0  # frames per second
    actions: ActionSpace = field(default_factory=lambda: procgen_actions("coinrun"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields of metadata.json."""
        return {
            "environment": self.environment,
            "environment_options": dict(self.environment_options),
            "frame_shape": list(self.frame_shape),
            "fps": self.fps,
            "num_actions": len(self.actions.names),
            **self.actions.to_dict(),
        }


def parse_size(size: str) -> tuple[int, int]:
    """ "96x64" -> (96, 64), width and height in pixels.

    Raises:
        ValueError: the text is not WIDTHxHEIGHT, or a side is longer than MAX_FRAME_SIDE.
    """
    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"size is {size!r}: expected width x height in pixels, such as 96x64")
    if max(int(width), int(height)) > MAX_FRAME_SIDE:
        raise ValueError(f"size is {size!r}: frames are at most {MAX_FRAME_SIDE} pixels wide and high")
    return int(width), int(height)


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata of a data set. Fields that are missing have the defaults of the public set.

    Raises:
        ValueError: the folder does not exist, or its metadata.json is invalid.
    """
    check_dataset_exists(folder)
    path, default = folder / METADATA_FILE, Metadata()
    if not path.is_file():
        return default
    try:
        values = json.loads(path.read_text())
        environment = str(values.get("environment", values.get("env", default.environment)))
        num_actions = int(values.get("num_actions", len(default.actions)))
        procgen = environment in PROCGEN_GAMES and num_actions == len(default.actions)
        actions = procgen_actions(environment) if procgen else unnamed_actions(num_actions)
        if "action_names" in values:
            actions = ActionSpace.from_dict(values)
        if len(actions.names) != num_actions:
            raise ValueError(f"num_actions is {num_actions}, with {len(actions.names)} names")
        height, width, channels = map(int, values.get("frame_shape", default.frame_shape))
        fps = float(values.get("fps", default.fps))
        if min(num_actions, height, width, channels) < 1 or not 0 < fps < math.inf:
            raise ValueError("num_actions, frame_shape and fps must be positive")
        return Metadata(
            environment=environment,
            environment_options=tuple(dict(values.get("environment_options", {})).items()),
            frame_shape=(height, width, channels),
            fps=fps,
            actions=actions,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is invalid: {type(error).__name__}: {error}") from None


def write_metadata(folder: Path, values: dict[str, Any]) -> None:
    """Write metadata.json atomically; creates the folder if needed."""
    with atomic_file(folder / METADATA_FILE) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def check_dataset_exists(folder: Path) -> None:
    """Raises ValueError if there is no such folder."""
    if not folder.is_dir():
        raise ValueError(f"no data set at {folder}: collect one with python -m scripts.collect")
