"""metadata.json: what a data set says of its game, frames and actions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from dreamrun.data.atomic import atomic_file
from dreamrun.data.captions import check_caption
from dreamrun.games.json_file import read_json
from dreamrun.games.printable import check_name
from dreamrun.games.procgen_actions import PROCGEN_GAMES, procgen_actions
from dreamrun.games.space import MAX_NAMES, ActionSpace, unnamed_actions
from dreamrun.shipped import find_shipped

METADATA_FILE = "metadata.json"
MAX_FRAME_SIDE = 1024  # pixels; a record of larger frames would not fit in memory
MIN_FPS, MAX_FPS = 0.01, 1000.0
MAX_OPTIONS = 32  # of an environment


@dataclass(frozen=True)
class Metadata:
    """The content of `metadata.json`. The defaults describe the public CoinRun set, which has no such file."""

    environment: str = "coinrun"  # the game, as `make_environment` names it
    environment_options: tuple[tuple[str, Any], ...] = ()  # keyword arguments of `make_environment`
    frame_shape: tuple[int, int, int] = (64, 64, 3)  # (H, W, C)
    fps: float = 15.0  # frames per second
    actions: ActionSpace = field(default_factory=lambda: procgen_actions("coinrun"))
    caption: str = ""  # what is played, in words; a record may have its own

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields of metadata.json."""
        return {
            "environment": self.environment,
            "environment_options": dict(self.environment_options),
            "frame_shape": list(self.frame_shape),
            "fps": self.fps,
            "num_actions": len(self.actions.names),
            **self.actions.to_dict(),
            **({"caption": self.caption} if self.caption else {}),
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
    folder = find_dataset(folder)
    path, default = folder / METADATA_FILE, Metadata()
    if not path.is_file():
        return default
    try:
        return _parse_metadata(read_json(path))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} is invalid: {type(error).__name__}: {error}") from None


def _parse_metadata(values: Any) -> Metadata:
    """The metadata in a parsed metadata.json. Raises ValueError, TypeError or KeyError if it is invalid."""
    if not isinstance(values, dict):
        raise ValueError("it is not an object")
    default = Metadata()
    environment = check_name("environment", values.get("environment", values.get("env", default.environment)))
    num_actions = values.get("num_actions", len(default.actions))
    if type(num_actions) is not int or not 1 <= num_actions <= MAX_NAMES:
        raise ValueError(f"num_actions is {num_actions!r:.40}: expected an integer from 1 to {MAX_NAMES}")
    procgen = environment in PROCGEN_GAMES and num_actions == len(default.actions)
    if "action_names" in values:
        actions = ActionSpace.from_dict(values)
    else:
        actions = procgen_actions(environment) if procgen else unnamed_actions(num_actions)
    if len(actions.names) != num_actions:
        raise ValueError(f"num_actions is {num_actions}, with {len(actions.names)} names")
    return Metadata(
        environment=environment,
        environment_options=check_options(dict(values.get("environment_options", {}))),
        frame_shape=check_frame_shape(values.get("frame_shape", default.frame_shape)),
        fps=check_fps(values.get("fps", default.fps)),
        actions=actions,
        caption=check_caption(values.get("caption", "")),
    )


def check_frame_shape(shape: Any) -> tuple[int, int, int]:
    """The shape (H, W, C) of frames. Raises ValueError unless it is that of RGB frames of a possible size."""
    sides = tuple(shape) if isinstance(shape, list | tuple) else ()
    if len(sides) != 3 or any(type(side) is not int or not 1 <= side <= MAX_FRAME_SIDE for side in sides):
        raise ValueError(f"frame_shape is {shape!r:.60}: expected [height, width, 3], sides of 1 to {MAX_FRAME_SIDE}")
    if sides[2] != 3:
        raise ValueError(f"frame_shape is {shape!r:.60}: expected 3 colour channels")
    return sides


def check_fps(fps: Any) -> float:
    """Frames per second. Raises ValueError unless it is a number that a game can have."""
    if not isinstance(fps, Real) or isinstance(fps, bool) or not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps is {fps!r:.40}: expected a number from {MIN_FPS} to {MAX_FPS:g}")
    return float(fps)


def check_options(options: dict[Any, Any]) -> tuple[tuple[str, Any], ...]:
    """The options of an environment as pairs. Raises ValueError unless they are few, with short plain values."""
    if len(options) > MAX_OPTIONS:
        raise ValueError(f"{len(options)} environment_options: at most {MAX_OPTIONS} are possible")
    for name, value in options.items():
        check_name("the name of an environment option", name)
        if isinstance(value, str):
            check_name(f"the environment option {name}", value)
        elif value is not None and not isinstance(value, bool | int | float):
            raise ValueError(f"the environment option {name} is {value!r:.40}: expected text or a number")
    return tuple(options.items())


def write_metadata(folder: Path, values: dict[str, Any]) -> None:
    """Write metadata.json atomically; creates the folder if needed."""
    with atomic_file(folder / METADATA_FILE) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def find_dataset(folder: Path) -> Path:
    """The folder, or the shipped samples of that name. Raises ValueError if there is neither."""
    found = find_shipped(folder, "samples")
    if not found.is_dir():
        raise ValueError(f"no data set at {folder}: collect one with `dreamrun collect`")
    return found
