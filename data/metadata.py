"""TODO."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.actions import ActionSpace, unnamed_actions
from data.games.procgen_actions import PROCGEN_GAMES, procgen_actions

MAX_FRAME_SIDE = 1024  # of a frame's width or height: a record of larger ones would fill the memory


METADATA_FILE = "metadata.json"


@dataclass(frozen=True)
class Metadata:
    """What `metadata.json` says of a data set. The defaults are those of the public CoinRun set, which says less."""

    environment: str = "coinrun"
    environment_options: tuple[tuple[str, Any], ...] = ()
    frame_shape: tuple[int, int, int] = (64, 64, 3)  # (H, W, C)
    fps: float = 15.0
    actions: ActionSpace = field(default_factory=lambda: procgen_actions("coinrun"))

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, ready for JSON."""
        return {
            "environment": self.environment,
            "environment_options": dict(self.environment_options),
            "frame_shape": list(self.frame_shape),
            "fps": self.fps,
            "num_actions": len(self.actions.names),
            **self.actions.to_dict(),
        }


def parse_size(size: str) -> tuple[int, int]:
    """ "96x64" -> width and height.

    Raises:
        ValueError: it is spelt otherwise, or is none of a frame.
    """
    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"size is {size!r}: expected width x height in pixels, 96x64 say")
    if max(int(width), int(height)) > MAX_FRAME_SIDE:
        raise ValueError(f"size is {size!r}: frames are at most {MAX_FRAME_SIDE} pixels wide and high")
    return int(width), int(height)


def read_metadata(folder: Path) -> Metadata:
    """The metadata of a data set, with the public set's defaults for what it does not say.

    Raises:
        ValueError: no such folder, or a metadata.json that makes no sense.
    """
    if not folder.is_dir():
        raise ValueError(f"no data set at {folder}: collect one with python -m scripts.collect --out {folder}")
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
            raise ValueError("num_actions, frame_shape and fps must be above 0")
        return Metadata(
            environment=environment,
            environment_options=tuple(dict(values.get("environment_options", {})).items()),
            frame_shape=(height, width, channels),
            fps=fps,
            actions=actions,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} makes no sense: {type(error).__name__}: {error}") from None
