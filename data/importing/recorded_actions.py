"""Find, read and resample the actions of a recording: .csv, .jsonl or .npz beside it, or the names of its pictures.

Shapes: K pictures and R rows of actions of a recording, T frames of the data set.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dreamrun.data.importing.description import PLACE_COLUMNS, Description
from dreamrun.data.importing.pictures import jitter_secs
from dreamrun.data.importing.sources import READ_ERRORS, Source, buttons_from_names, frames_array_name
from dreamrun.games.space import ActionSpace

ACTION_SUFFIXES = (".csv", ".jsonl", ".npz")
_DECIMAL_COMMA = re.compile(r"^\s*([+-]?\d+),(\d+)\s*$")  # in files with semicolons, as spreadsheets write them
MAX_ROW_DIFFERENCE = 10  # between the numbers of pictures and of rows that have neither time nor frame


def _possible_files(source: Source, actions: str) -> list[Path]:
    suffixes = ACTION_SUFFIXES if actions == "auto" else (f".{actions}",)
    return [source.path.with_name(Path(source.name).name + suffix) for suffix in suffixes]


def find_action_file(source: Source, actions: str) -> Path | None:
    """The file of actions beside a recording.

    Args:
        actions: the setting `ImportVideoConfig.actions`.
    """
    return next((path for path in _possible_files(source, actions) if path.is_file()), None)


def has_actions(source: Source, actions: str) -> bool:
    """Whether a recording has actions, or actions are switched off."""
    return bool(actions == "none" or find_action_file(source, actions) or buttons_from_names(source) is not None)


def load_actions(
    source: Source, actions: str, description: Description, frame_times: np.ndarray, num_ticks: int, fps: float
) -> np.ndarray:
    """The actions of a recording, resampled to the frames of the data set.

    Args:
        actions: the setting `ImportVideoConfig.actions`.
        frame_times: (K,) seconds of the pictures.
        num_ticks: T.

    Returns:
        (T,) ids or (T, names) vectors; actions[t] leads from frame t to t + 1.
    """
    space = description.space
    if actions == "none":
        return np.zeros(num_ticks, np.int32)
    path = find_action_file(source, actions)
    if actions == "names" or (actions == "auto" and source.is_folder and not path):
        bits = buttons_from_names(source)
        if bits is not None:
            return resample_actions(frame_times, description.from_array(bits), space, num_ticks, fps)
    if path:
        times, rows = read_actions(path, description, frame_times)
        return resample_actions(times, rows, space, num_ticks, fps, np.array(description.positions, bool))
    if actions == "names":
        raise ValueError("the names of its pictures hold no buttons (..._a20_...)")
    names = ", ".join(path.name for path in _possible_files(source, actions))
    raise ValueError(f"it has no actions beside it ({names}): set actions to none to import pictures alone")


def read_actions(path: Path, description: Description, frame_times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of actions.

    A row's time is its column `time`, or the time of the picture that its column `frame` names. Without either, row i
    belongs to picture i.

    Args:
        frame_times: (K,) seconds of the pictures.

    Returns:
        Sorted times (R,) in seconds after the first picture, and recorded actions (R,) or (R, names).
    """
    if path.suffix.lower() == ".npz":
        frames, times, actions = _read_npz(path, description)
    else:
        frames, times, actions = _read_rows(path, description)
    if times is None:
        times = _times_of_rows(path, frames, len(actions), frame_times)
        actions = actions[: len(times)]
    num_outside = np.count_nonzero((times < 0) | (times > frame_times[-1] + 1))
    if num_outside > len(times) / 2:
        limits = f"0 to {frame_times[-1]:.1f} seconds after its first picture"
        raise ValueError(f"{path.name}: {num_outside} of its {len(times)} times are outside of the video, {limits}")
    order = np.argsort(times, kind="stable")
    return times[order], actions[order]


def _read_rows(path: Path, description: Description) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Frame numbers and times, if a .csv or .jsonl has them, and actions."""
    places, rows, vpt = [], [], VPTActions()
    for line_number, fields in _read_fields(path):
        try:
            if not isinstance(fields, dict):
                raise ValueError("not an object")
            places.append([fields.get(name) for name in PLACE_COLUMNS])
            rows.append(description.action(vpt.translate(fields)))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name}, line {line_number}: {error}") from None
    if not rows:
        raise ValueError(f"{path.name} has no actions")
    frames, times = (
        _number_column(path, name, column) for name, column in zip(PLACE_COLUMNS, zip(*places), strict=True)
    )
    return frames, times, np.stack(rows)


def _times_of_rows(path: Path, frames: np.ndarray | None, num_rows: int, frame_times: np.ndarray) -> np.ndarray:
    num_frames = len(frame_times)
    if frames is not None:
        if frames.min() < 0 or frames.max() >= num_frames:
            found = f"{frames.min():.0f} to {frames.max():.0f}"
            raise ValueError(f"{path.name} has frames {found}: expected 0 to {num_frames - 1}")
        return frame_times[frames.astype(int)]
    if abs(num_rows - num_frames) > np.clip(0.01 * num_frames, 2, MAX_ROW_DIFFERENCE):
        raise ValueError(f"{path.name} has {num_rows} actions for {num_frames} pictures: add a column time or frame")
    return frame_times[: min(num_rows, num_frames)]


def _read_fields(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number and fields of each row of a .csv or .jsonl."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if path.suffix == ".jsonl":
                yield from ((number, json.loads(line)) for number, line in enumerate(file, start=1) if line.strip())
            else:
                yield from _read_csv(file)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from None


def _read_csv(file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of each row. Columns are separated by commas, or by semicolons or tabs in all rows."""
    first = file.readline()
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
    names = [name.strip() for name in next(reader, [])]
    empty_line = 0  # the last one
    for values in reader:
        # With several columns an empty line is no row. A row of the column `keys` alone is an empty line if no key is
        # held, and actions would shift if it did not count.
        if not values and names == ["keys"]:
            values = [""]
        if not values:
            empty_line = reader.line_num
            continue
        if empty_line and len(names) == 1:
            raise ValueError(f"line {empty_line} is empty: later actions would shift")
        if len(values) != len(names):
            raise ValueError(f"line {reader.line_num} does not have the columns of the first line")
        if delimiter == ";":
            pairs = zip(names, values, strict=True)
            values = [value if name == "keys" else _DECIMAL_COMMA.sub(r"\1.\2", value) for name, value in pairs]
        # A column without a name holds row numbers, as pandas writes them.
        yield reader.line_num, {name: value for name, value in zip(names, values, strict=True) if name}


def _number_column(path: Path, name: str, column: Iterable[Any]) -> np.ndarray | None:
    """A column as float64, or None if it is empty."""
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
    """Frame numbers and times, if the .npz has them, and actions."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "actions" not in arrays:
                raise ValueError("it has no array `actions`")
            actions = description.from_array(arrays["actions"])
            # In an .npz with frames, `time` is that of the frames: action i belongs to frame i.
            columns = {name: arrays[name] for name in PLACE_COLUMNS if name in arrays and not frames_array_name(path)}
    except READ_ERRORS as error:
        raise ValueError(f"{path.name}: {error}") from None
    for name, column in columns.items():
        if column.shape != actions.shape[:1]:
            raise ValueError(f"{path.name} has {len(actions)} actions, but `{name}` has shape {column.shape}")
    frames, times = (_number_column(path, name, columns[name]) if name in columns else None for name in PLACE_COLUMNS)
    return frames, times, actions


class VPTActions:
    """Translates the lines of one recording by OpenAI's Minecraft contractors (VPT, arXiv 2206.11795).

    Keys are recorded as `key.keyboard.w`, mouse buttons as `mouse.0`. Two faults of the recorder are corrected, as in
    OpenAI's own loader: mouse button 0 is ignored if it is down from the first line until it is pressed again, and a
    hotbar slot that the mouse wheel selected counts as its number key.
    """

    def __init__(self):
        self._button_0_stuck: bool | None = None
        self._slot: int | None = None

    def translate(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The next line as `Description.action` reads it. Lines of other formats are returned unchanged."""
        if "keyboard" not in fields and "mouse" not in fields:
            return fields
        mouse, keyboard = fields.get("mouse") or {}, fields.get("keyboard") or {}
        if not (isinstance(mouse, dict) and isinstance(keyboard, dict)):
            raise ValueError("its mouse or keyboard is not an object")
        pressed = mouse.get("newButtons", [])
        if self._button_0_stuck is None:
            self._button_0_stuck = pressed == [0]
        else:
            self._button_0_stuck = self._button_0_stuck and 0 not in pressed
        buttons = [button for button in mouse.get("buttons", ()) if button or not self._button_0_stuck]
        keys = [*keyboard.get("keys", ()), *(f"mouse.{button}" for button in buttons)]
        previous_slot, self._slot = self._slot, fields.get("hotbar")
        if None not in (previous_slot, self._slot) and previous_slot != self._slot:
            keys.append(f"key.keyboard.{self._slot + 1}")
        return {"keys": keys, "mouse.dx": mouse.get("dx", 0.0), "mouse.dy": mouse.get("dy", 0.0)}


def resample_actions(
    times: np.ndarray,
    actions: np.ndarray,
    space: ActionSpace,
    num_ticks: int,
    fps: float,
    is_position: np.ndarray | bool = False,
) -> np.ndarray:
    """The action of each tick of 1 / fps seconds, so that no key press between two frames is lost.

    A button is held in a tick if it was held at any time in it. The motion of an axis is summed, its position is
    averaged. For ids: the most frequent acting one. All but motion lasts until the next row.

    Args:
        times: (R,) seconds, sorted, at which each row begins.
        actions: recorded actions, (R,) ids or (R, names) vectors.
        is_position: (names,), the axes whose values are positions.

    Returns:
        (T,) or (T, names).
    """
    tick = np.floor((times + jitter_secs(times, fps)) * fps).astype(int)
    rows = np.flatnonzero((tick >= 0) & (tick < num_ticks))
    starts = np.arange(num_ticks) / fps
    # The row that is active when a tick begins. It counts if no other row begins in the first half of the tick.
    active_row = np.searchsorted(tick, np.arange(num_ticks)) - 1
    next_times = np.append(times, np.inf)[active_row + 1]
    carried = np.flatnonzero((active_row >= 0) & (next_times - starts > 0.5 / fps))
    all_ticks = np.concatenate((carried, tick[rows]))
    all_rows = np.concatenate((active_row[carried], rows))
    if space.discrete:
        return _most_frequent(all_ticks, actions[all_rows], space, num_ticks)
    is_axis = np.array(space.kinds) == "axis"
    held = np.zeros((num_ticks, len(space.names)), np.float32)
    np.maximum.at(held, all_ticks, np.where(is_axis, -np.inf, actions[all_rows]).astype(np.float32))
    moved = np.zeros_like(held)
    np.add.at(moved, tick[rows], actions[rows])
    positions, num_rows = np.zeros_like(held), np.bincount(all_ticks, minlength=num_ticks)[:, None]
    np.add.at(positions, all_ticks, actions[all_rows])
    return np.where(is_position, positions / num_rows.clip(1), np.where(is_axis, moved, held)).astype(np.float32)


def _most_frequent(tick: np.ndarray, ids: np.ndarray, space: ActionSpace, num_ticks: int) -> np.ndarray:
    """(T,) int32, the id of each tick: an acting one before noop, then the more frequent, then the lower one."""
    counts = np.zeros((num_ticks, len(space.names)))
    np.add.at(counts, (tick, ids), 1.0)
    acting_bonus = np.zeros(len(space.names))
    acting_bonus[[i for i in space.acting if i != space.noop]] = 1.0 + len(tick)
    counts[:, space.noop] += 0.5 * (counts.sum(1) == 0)
    return (counts + acting_bonus * (counts > 0)).argmax(1).astype(np.int32)
