"""Actions as other programs recorded them: described by an actions.toml, read from text, brought to one frame rate.

Shapes: R rows of a recording, T frames of the data set.
"""

from __future__ import annotations

import csv
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.actions import ActionSpace
from data.importing.sources import READ_ERRORS, pictures_in
from data.importing.vpt import VPTActions

ACTION_SUFFIXES = (".csv", ".jsonl", ".npz")
MOST_ROWS_OFF = 10  # by which rows without time may be more or fewer than the pictures
_PLACES = ("frame", "time")  # columns that tell where a row belongs
_COLUMNS = ("action", "keys", "buttons", *_PLACES)  # which mean the same in every file
_SETTINGS = ("stand_still", "ignored")  # of an actions.toml, above its tables


@dataclass(frozen=True)
class Description:
    """What an actions.toml says."""

    space: ActionSpace
    recorded: dict[str, str]  # what recordings call some of the names, lower case -> the name
    ignored: tuple[str, ...]  # recorded keys that no action needs, lower case; "*": all that are unknown

    def key_index(self, key: str) -> int | None:
        """The button or axis that a recorded key stands for, by its name or by one of its keys; None: it is ignored.

        Raises:
            ValueError: there is none, and it is not among those to be ignored.
        """
        space, wanted = self.space, self._renamed(key)
        for i, name in enumerate(space.names):
            if wanted == name.lower():
                return i
        for i, keys in enumerate(space.keys):
            if not space.discrete and space.kinds[i] == "button" and wanted in [k.lower() for k in keys]:
                return i
        self._ignore(key)
        return None

    def _renamed(self, key: str) -> str:
        """What actions.toml calls a recorded key, lower case."""
        wanted = key.strip().lower()
        return self.recorded.get(wanted, wanted)

    def _ignore(self, key: str) -> None:
        """Raises ValueError unless a key or column is among those to be ignored."""
        if not {self._renamed(key), "*"} & set(self.ignored):
            known = ", ".join(self.space.names)
            raise ValueError(
                f"unknown key or column {key.strip()!r}: actions.toml knows {known}, and no such `ignored`"
            )

    def action(self, fields: dict[str, Any]) -> int | np.ndarray:
        """The recorded action that a row of a file means.

        Raises:
            ValueError: it means none.
        """
        space = self.space
        if space.discrete:
            if "action" not in fields and "keys" not in fields:
                raise ValueError("it has neither action nor keys, and actions.toml has one action at a time")
            for key in fields.keys() - {"action", "keys", *_PLACES}:
                self._ignore(key)
            if "action" in fields:
                return self._from_value(fields["action"])
            held = [key for recorded in _split_keys(fields["keys"]) for key in self._held(recorded)]
            return space.action_for_keys(held, among=range(len(space.names)))
        vector = self._from_value(fields["action"]) if "action" in fields else space.noop
        for key in _split_keys(fields.get("keys", ())):
            self._set(vector, key, 1.0)
        if "buttons" in fields:
            vector = np.maximum(vector, self.from_bits(np.array(int(fields["buttons"]))))
        for key, value in fields.items():
            if key not in _COLUMNS:
                self._set(vector, key, value)
        return vector

    def _held(self, key: str) -> tuple[str, ...]:
        """The keyboard's keys that a recorded one stands for in a discrete space: itself, or those of an action."""
        wanted = self._renamed(key)
        for name, keys in zip(self.space.names, self.space.keys, strict=True):
            if wanted == name.lower():
                return keys
        known = {key.upper() for keys in self.space.keys for key in keys} | self.space.key_aliases.keys()
        if wanted.upper() in known:
            return (wanted,)
        self._ignore(key)
        return ()

    def from_bits(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (...) whose lowest bit is the first button -> vectors (..., names).

        Raises:
            ValueError: more bits than buttons.
        """
        space, numbers = self.space, numbers.astype(np.int64)
        buttons = [i for i, kind in enumerate(space.kinds) if kind == "button"]
        if not buttons or (numbers.size and not 0 <= numbers.min() <= numbers.max() < 1 << len(buttons)):
            raise ValueError(f"the buttons are {numbers.max()}, but actions.toml has {len(buttons)} of them")
        vectors = np.zeros((*numbers.shape, len(space.names)), np.float32)
        vectors[..., buttons] = (numbers[..., None] >> np.arange(len(buttons))) & 1
        return vectors

    def from_array(self, values: np.ndarray) -> np.ndarray:
        """Ids (R,), or vectors (R, names) in the recording's own units.

        Raises:
            ValueError: neither fits.
        """
        space = self.space
        if values.ndim == 1 and values.dtype.kind in "iu":
            if not space.discrete:
                return self.from_bits(values)
            if values.size and not 0 <= values.min() <= values.max() < len(space.names):
                raise ValueError(f"action {values.max()}: actions.toml has {len(space.names)}, counted from 0")
            return values.astype(np.int32)
        if space.discrete or values.ndim != 2 or values.shape[1] != len(space.names) or values.dtype.kind not in "iufb":
            raise ValueError(f"its actions are {values.dtype} {values.shape}: that is not what actions.toml describes")
        if not np.isfinite(values).all():
            raise ValueError("its actions are not finite")
        is_axis = np.array(space.kinds) == "axis"
        return np.where(is_axis, values / np.array(space.scales), values > 0).astype(np.float32)

    def _from_value(self, value: Any) -> int | np.ndarray:
        if isinstance(value, list):
            return self.from_array(np.array([value], np.float64))[0]
        text = str(value).strip()
        if re.fullmatch(r"-?\d+(\.0*)?", text):
            return self.from_array(np.array([int(float(text))]))[0]
        return self.space.parse(self.recorded.get(text.lower(), text))

    def _set(self, vector: np.ndarray, key: str, value: Any) -> None:
        i = self.key_index(key)
        if i is None:
            return
        try:
            number = float(value) if str(value).strip() else 0.0
        except ValueError:
            raise ValueError(f"{key} is {value!r}: expected a number") from None
        if not np.isfinite(number):
            raise ValueError(f"{key} is {value!r}: expected a finite number")
        is_axis = self.space.kinds[i] == "axis"
        vector[i] = vector[i] + number / self.space.scales[i] if is_axis else max(vector[i], float(number > 0))


def read_description(path: Path) -> Description:
    """An actions.toml.

    Raises:
        ValueError: it is not there, or makes no sense; says what is wrong.
    """
    if not path.is_file():
        raise ValueError(f"no {path}: describe the actions there (docs/your_own_game.md), or give --actions none")
    try:
        values = tomllib.loads(path.read_text())
        unknown = sorted(values.keys() - {"actions", "buttons", "axes", "stand_still", "recorded", "ignored"})
        if unknown:
            raise ValueError(f"it says {', '.join(unknown)}, which means nothing here")
        if ("actions" in values) == ("buttons" in values or "axes" in values):
            raise ValueError("give [actions], one at a time, or [buttons] and [axes], held together")
        for name in _SETTINGS:
            if not isinstance(values.get(name, []), list):
                raise ValueError(f'{name} is {values[name]!r}: expected a list, ["F3"] say')
        recorded = {str(theirs).lower(): str(ours).lower() for theirs, ours in values.get("recorded", {}).items()}
        ignored = tuple(str(key).lower() for key in values.get("ignored", ()))
        description = Description(_space(values), recorded, ignored)
        for name in recorded.values():
            if name not in [known.lower() for known in description.space.names]:
                raise ValueError(f"[recorded] speaks of {name!r}, which is not described")
        return description
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} makes no sense: {error}") from None


def _space(values: dict[str, Any]) -> ActionSpace:
    still = {str(name) for name in values.get("stand_still", ())}
    tables = [values.get(kind, {}) for kind in ("actions", "buttons", "axes")]
    names = [name for table in tables for name in table]
    for name in names:
        if name in _SETTINGS:
            raise ValueError(f"{name} stands in a table: give it above the first one")
        if name.lower() in _COLUMNS and "actions" not in values:
            raise ValueError(f"{name!r} cannot be the name of a button or axis: as a column it means something else")
    if still - set(names):
        raise ValueError(f"stand_still speaks of {', '.join(sorted(still - set(names)))}, which is not described")
    if "actions" in values:
        keys = [() if name in still else _keys(name, described) for name, described in tables[0].items()]
        first = keys.index(()) if () in keys else None
        acting = [i for i, name in enumerate(names) if name not in still or i == first]
        return ActionSpace(tuple(names), tuple(keys), tuple(acting))
    buttons, axes = tables[1:]
    described_axes = [axis if isinstance(axis, dict) else {"scale": axis} for axis in axes.values()]
    scales = [float(axis.get("scale", 1.0)) for axis in described_axes]
    if not all(0 < scale < float("inf") for scale in scales):
        raise ValueError(f"the scales of axes are {scales}: they must be above 0")
    keys = [_keys(name, described) for name, described in buttons.items()]
    keys += [tuple(map(str.upper, axis.get("keys", ()))) for axis in described_axes]
    return ActionSpace(
        names=tuple(names),
        keys=tuple(keys),
        acting=tuple(i for i, name in enumerate(names) if name not in still),
        kinds=("button",) * len(buttons) + ("axis",) * len(axes),
        scales=(1.0,) * len(buttons) + tuple(scales),
    )


def _keys(name: str, described: Any) -> tuple[str, ...]:
    described = [described] if isinstance(described, str) else described
    if not isinstance(described, list):
        raise ValueError(f'{name} is {described!r}: expected the keys of it, ["LEFT"] say')
    return tuple(str(key).upper() for key in described)


def _split_keys(keys: Any) -> list[str]:
    """A list of keys, or a text of keys with + or commas between them; "left shift" is one key."""
    parts = keys if isinstance(keys, list | tuple) else re.split("[+,;]", str(keys))
    return [key for part in parts if (key := str(part).strip())]


def read_actions(path: Path, description: Description, frame_times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of an action file: when each is from, seconds after the first picture, and what was done.

    A row without `time` or `frame` belongs to the picture of its number.

    Args:
        frame_times: (K,) of the pictures.

    Returns:
        (R,) times in order, and recorded actions (R,) or (R, names).

    Raises:
        ValueError: it cannot be read, has more or fewer rows than there are pictures, or is from another time than they
            are; says what is wrong.
    """
    if path.suffix.lower() == ".npz":
        frames, times, actions = _read_npz(path, description)
    else:
        places, found, plain = [], [], VPTActions()
        for number, fields in _rows(path):
            try:
                if not isinstance(fields, dict):
                    raise ValueError("not an object")
                places.append([fields.get(name) for name in _PLACES])
                found.append(description.action(plain(fields)))
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from None
        if not found:
            raise ValueError(f"{path.name} has no actions")
        actions = np.stack(found)
        frames, times = (_numbers(path, name, column) for name, column in zip(_PLACES, zip(*places), strict=True))
    if times is None:
        times = _times_of(path, frames, len(actions), frame_times)
        actions = actions[: len(times)]
    num_outside = np.count_nonzero((times < 0) | (times > frame_times[-1] + 1))
    if num_outside > len(times) / 2:
        secs = f"0 to {frame_times[-1]:.1f} seconds after its first picture"
        raise ValueError(f"{path.name}: {num_outside} of its {len(times)} times lie outside of the video, {secs}")
    order = np.argsort(times, kind="stable")
    return times[order], actions[order]


def _times_of(path: Path, frames: np.ndarray | None, num_rows: int, frame_times: np.ndarray) -> np.ndarray:
    """The times of rows that tell the number of their picture, or nothing."""
    num_frames = len(frame_times)
    if frames is not None:
        if frames.min() < 0 or frames.max() >= num_frames:
            spoken = f"{frames.min():.0f} to {frames.max():.0f}"
            raise ValueError(f"{path.name} speaks of frames {spoken}: there are 0 to {num_frames - 1}")
        return frame_times[frames.astype(int)]
    if abs(num_rows - num_frames) > np.clip(0.01 * num_frames, 2, MOST_ROWS_OFF):
        raise ValueError(f"{path.name} has {num_rows} actions for {num_frames} pictures: give a column time or frame")
    return frame_times[: min(num_rows, num_frames)]


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and fields."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix == ".jsonl":
                yield from ((number, json.loads(line)) for number, line in enumerate(file, start=1) if line.strip())
            else:
                reader = csv.DictReader(file, skipinitialspace=True)
                for fields in reader:
                    if None in fields or None in fields.values():
                        raise ValueError(f"line {reader.line_num} has other columns than the first line")
                    # A column without a name numbers the rows, as pandas writes it.
                    yield reader.line_num, {name.strip(): value for name, value in fields.items() if name.strip()}
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from None


def _numbers(path: Path, name: str, column: Iterable[Any]) -> np.ndarray | None:
    column = list(column)
    if all(value is None for value in column):
        return None
    try:
        numbers = np.array(column, np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path.name} has a {name} that is not a number")
    return numbers


def _read_npz(path: Path, description: Description) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Frame numbers and times, where it tells them, and actions."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "actions" not in arrays:
                raise ValueError("it has no array `actions`")
            actions = description.from_array(arrays["actions"])
            # Beside frames, `time` is when they are from: an action belongs to the frame of its number.
            columns = {name: arrays[name] for name in _PLACES if name in arrays and not pictures_in(path)}
    except READ_ERRORS as error:
        raise ValueError(f"{path.name}: {error}") from None
    for name, column in columns.items():
        if column.shape != actions.shape[:1]:
            raise ValueError(f"{path.name}: {len(actions)} actions, with `{name}` of shape {column.shape}")
    frames, times = (_numbers(path, name, columns[name]) if name in columns else None for name in _PLACES)
    return frames, times, actions
