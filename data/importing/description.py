"""actions.toml: the action space of recordings, and what their keys and columns mean.

Shapes: R rows of a recording.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamrun.games.space import ActionSpace
from dreamrun.games.untrusted import check_name

MAX_TOML_BYTES = 256 * 1024
MAX_DOTS_IN_LINE = 200
MAX_SCALE = 1e9  # of an axis
PLACE_COLUMNS = ("frame", "time")  # columns that say which picture a row belongs to
_RESERVED_COLUMNS = ("action", "keys", "buttons", *PLACE_COLUMNS)  # columns with a fixed meaning
AXIS_KINDS = ("motion", "position")  # how far it moved, such as a mouse, or where it is, such as a stick
_SEPARATORS = ("+", ",", ";")  # between keys
DEFAULT_THRESHOLD = 0.5  # a trigger at rest is seldom exactly 0
_TRUTH = {"true": 1.0, "false": 0.0}  # as pandas and JSON write columns of yes and no
_TOP_LEVEL_KEYS = ("stand_still", "ignored")  # of actions.toml, above its tables
_TABLES = ("actions", "buttons", "axes", "recorded")


@dataclass(frozen=True)
class Description:
    """The content of an actions.toml."""

    space: ActionSpace
    recorded: dict[str, str]  # names in recordings -> names in the action space, lower case
    ignored: tuple[str, ...]  # recorded keys that no action needs, lower case; "*": all unknown keys
    thresholds: tuple[float, ...] = ()  # one a name: the value from which a button counts as pressed
    positions: tuple[bool, ...] = ()  # one a name: whether it is an axis of kind "position"

    def key_index(self, key: str) -> int | None:
        """The index of the button or axis that a recorded key or column means; None: it is ignored.

        It is found by its name or by one of its keyboard keys.
        """
        space, name_or_key = self.space, self._translate(key)
        for i, name in enumerate(space.names):
            if name_or_key == name.lower():
                return i
        for i, keys in enumerate(space.keys):
            if not space.discrete and space.kinds[i] == "button" and name_or_key in [k.lower() for k in keys]:
                return i
        self._check_ignored(key)
        return None

    def _translate(self, key: str) -> str:
        """The name that actions.toml gives to a recorded key, lower case."""
        key = key.strip().lower()
        return self.recorded.get(key, key)

    def _check_ignored(self, key: str) -> None:
        if not {self._translate(key), "*"} & set(self.ignored):
            known = ", ".join(self.space.names)
            raise ValueError(
                f"unknown key or column {key.strip()!r}: actions.toml knows {known}, and does not list it as ignored"
            )

    def action(self, fields: dict[str, Any]) -> int | np.ndarray:
        """The recorded action of one row of a file.

        Args:
            fields: column -> value.
        """
        space = self.space
        if space.discrete:
            if "action" not in fields and "keys" not in fields:
                raise ValueError("it has neither action nor keys, which [actions] in actions.toml needs")
            for key in fields.keys() - {"action", "keys", *PLACE_COLUMNS}:
                self._check_ignored(key)
            if "action" in fields:
                return self._from_value(fields["action"])
            held = [key for recorded in self._split_keys(fields["keys"]) for key in self._keyboard_keys(recorded)]
            return space.action_for_keys(held, candidates=range(len(space.names)))
        vector = self._from_value(fields["action"]) if "action" in fields else space.noop
        for key in self._split_keys(fields.get("keys", ())):
            self._add(vector, key, None)
        if "buttons" in fields:
            vector = np.maximum(vector, self.from_bits(np.array(int(fields["buttons"]))))
        for key, value in fields.items():
            if key not in _RESERVED_COLUMNS:
                self._add(vector, key, value)
        return vector

    def _split_keys(self, keys: Any) -> list[str]:
        """Keys from a list, or from text with "+", "," or ";" between them. "left shift" is one key.

        If actions.toml knows "+" as a key, "a++" holds it and a: a mark is a key where none stands for a key.
        """
        if isinstance(keys, list | tuple):
            return [key for part in keys if (key := str(part).strip())]
        known = {*self.recorded, *self.ignored, *self.space.names, *(key for keys in self.space.keys for key in keys)}
        parts = re.findall(r"[^+,;]+|(?<![^+,;])[+,;](?=[+,;]|$)", re.sub(r"\s*([+,;])\s*", r"\1", str(keys).strip()))
        return [key for part in parts if (key := part.strip()) and (key not in _SEPARATORS or key in known)]

    def _keyboard_keys(self, key: str) -> tuple[str, ...]:
        """The keyboard keys that a recorded key means in a discrete space: those of an action by name, or itself."""
        name_or_key = self._translate(key)
        for name, keys in zip(self.space.names, self.space.keys, strict=True):
            if name_or_key == name.lower():
                return keys
        known = {key.upper() for keys in self.space.keys for key in keys} | self.space.key_aliases.keys()
        if name_or_key.upper() in known:
            return (name_or_key,)
        self._check_ignored(key)
        return ()

    def from_bits(self, bit_fields: np.ndarray) -> np.ndarray:
        """Bit fields (...) -> vectors (..., names). The lowest bit is the first button."""
        space, bit_fields = self.space, bit_fields.astype(np.int64)
        buttons = [i for i, kind in enumerate(space.kinds) if kind == "button"]
        if not buttons or (bit_fields.size and not 0 <= bit_fields.min() <= bit_fields.max() < 1 << len(buttons)):
            raise ValueError(f"the buttons are {bit_fields.max()}, but actions.toml has {len(buttons)} buttons")
        vectors = np.zeros((*bit_fields.shape, len(space.names)), np.float32)
        vectors[..., buttons] = (bit_fields[..., None] >> np.arange(len(buttons))) & 1
        return vectors

    def from_array(self, values: np.ndarray) -> np.ndarray:
        """Recorded actions (R,) or (R, names) from an array: ids, bit fields, or vectors in recorded units."""
        space = self.space
        if values.ndim == 1 and values.dtype.kind in "iu":
            if not space.discrete:
                return self.from_bits(values)
            distinct, places = np.unique(values, return_inverse=True)
            return np.array([self._id(str(value)) for value in distinct], np.int32)[places]
        if space.discrete or values.ndim != 2 or values.shape[1] != len(space.names) or values.dtype.kind not in "iufb":
            raise ValueError(f"its actions are {values.dtype} {values.shape}: actions.toml describes others")
        if not np.isfinite(values).all():
            raise ValueError("its actions are not finite")
        is_axis = np.array(space.kinds) == "axis"
        pressed = values >= np.array(self.thresholds)
        return np.where(is_axis, values / np.array(space.scales), pressed).astype(np.float32)

    def _id(self, text: str) -> int:
        """The id of a recorded action: what [recorded] says, or else a name, or else an id.

        If some actions are named by numbers, numbers are names alone.
        """
        text = self._translate(text)
        names = [name.lower() for name in self.space.names]
        if text in names or not re.fullmatch(r"-?\d+", text):
            return self.space.parse(text)
        if any(re.fullmatch(r"-?\d+", name) for name in names):
            raise ValueError(f"there is no action {text}: some are named by numbers, so it is not taken for an id")
        if not 0 <= int(text) < len(names):
            raise ValueError(f"the action is {text}: actions.toml has 0 to {len(names) - 1}")
        return int(text)

    def _from_value(self, value: Any) -> int | np.ndarray:
        """The recorded action of a column `action`: a list of numbers, an id, or a name."""
        if isinstance(value, list):
            return self.from_array(np.array([value], np.float64))[0]
        text = re.sub(r"^(-?\d+)\.0*$", r"\1", str(value).strip())  # as pandas writes columns with gaps
        if self.space.discrete:
            return self._id(text)
        if re.fullmatch(r"-?\d+", text) and self._translate(text) not in [name.lower() for name in self.space.names]:
            return self.from_bits(np.array(int(text)))
        return self.space.parse(self._translate(text))

    def _add(self, vector: np.ndarray, key: str, value: Any) -> None:
        """Add the value of a recorded key or column to a vector: press a button, or move an axis. None: a held key."""
        i = self.key_index(key)
        if i is None:
            return
        value = max(1.0, self.thresholds[i]) if value is None else value
        text = str(value).strip()
        try:
            number = float(_TRUTH.get(text.lower(), text or 0.0))
        except ValueError:
            raise ValueError(f"{key} is {value!r}: expected a number") from None
        if not np.isfinite(number):
            raise ValueError(f"{key} is {value!r}: expected a finite number")
        is_axis = self.space.kinds[i] == "axis"
        if is_axis:
            vector[i] += number / self.space.scales[i]
        else:
            vector[i] = max(vector[i], float(number >= self.thresholds[i]))


def read_description(path: Path) -> Description:
    """Read an actions.toml."""
    if not path.is_file():
        raise ValueError(f"no {path}: describe the actions there (docs/your_own_game.md), or set actions to none")
    try:
        values = _read_toml(path)
        unknown = sorted(values.keys() - {*_TOP_LEVEL_KEYS, *_TABLES})
        if unknown:
            raise ValueError(f"unknown keys {', '.join(unknown[:8])}")
        if ("actions" in values) == ("buttons" in values or "axes" in values):
            raise ValueError("give either [actions], one at a time, or [buttons] and [axes], held together")
        for name, value in values.items():
            if name in _TOP_LEVEL_KEYS and not isinstance(value, list):
                raise ValueError(f'{name} is {value!r:.40}: expected a list, such as ["F3"]')
            if name in _TABLES and not isinstance(value, dict):
                raise ValueError(f"{name} is {value!r:.40}: expected a table, [{name}]")
        recorded = {key.lower(): str(name).lower() for key, name in values.get("recorded", {}).items()}
        ignored = tuple(_name("ignored", key).lower() for key in values.get("ignored", ()))
        description = Description(_action_space(values), recorded, ignored, *_readings(values))
        for name in recorded.values():
            if name not in [known.lower() for known in description.space.names]:
                raise ValueError(f"[recorded] names {name!r}, which is not in any table")
        return description
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} is invalid: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    """The parsed content of a TOML file, with or without a byte order mark."""
    with path.open("rb") as file:
        data = file.read(MAX_TOML_BYTES + 1)
    if len(data) > MAX_TOML_BYTES:
        raise ValueError(f"it is larger than {MAX_TOML_BYTES // 1024} KiB")
    text = data.decode("utf-8-sig")
    if any(line.count(".") > MAX_DOTS_IN_LINE for line in text.splitlines()):  # tomllib takes hours for a.a.a.a...
        raise ValueError(f"a line has more than {MAX_DOTS_IN_LINE} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _action_space(values: dict[str, Any]) -> ActionSpace:
    idle = {_name("stand_still", name) for name in values.get("stand_still", ())}
    tables = [values.get(kind, {}) for kind in ("actions", "buttons", "axes")]
    names = [name for table in tables for name in table]
    for name in names:
        if name in _TOP_LEVEL_KEYS:
            raise ValueError(f"{name} is inside a table: move it above the first table")
        if name.lower() in _RESERVED_COLUMNS and "actions" not in values:
            raise ValueError(f"{name!r} cannot be a button or axis: a column of this name has another meaning")
    if idle - set(names):
        raise ValueError(f"stand_still names {', '.join(sorted(idle - set(names)))}, which is not in any table")
    if "actions" in values:
        keys = [() if name in idle else _parse_keys(name, value) for name, value in tables[0].items()]
        noop = keys.index(()) if () in keys else None
        acting = [i for i, name in enumerate(names) if name not in idle or i == noop]
        return ActionSpace(tuple(names), tuple(keys), tuple(acting))
    buttons, axes = tables[1:]
    axis_tables = [axis if isinstance(axis, dict) else {"scale": axis} for axis in axes.values()]
    for name, axis in zip(axes, axis_tables, strict=True):
        if axis.keys() - {"scale", "keys", "kind"} or axis.get("kind", "motion") not in AXIS_KINDS:
            raise ValueError(f"{name} is {axis!r:.60}: expected a scale, keys and a kind, {' or '.join(AXIS_KINDS)}")
    scales = [axis.get("scale", 1.0) for axis in axis_tables]
    if not all(type(scale) in (int, float) and 0 < scale <= MAX_SCALE for scale in scales):
        raise ValueError(f"the scales of axes are {scales!r:.60}: they must be positive numbers")
    for name, button in buttons.items():
        if isinstance(button, dict) and button.keys() - {"keys", "threshold"}:
            raise ValueError(f"{name} is {button!r:.60}: expected its keys, or a table of keys and a threshold")
    keys = [
        _parse_keys(name, value.get("keys", []) if isinstance(value, dict) else value)
        for name, value in buttons.items()
    ]
    keys += [_parse_keys(name, axis.get("keys", [])) for name, axis in zip(axes, axis_tables, strict=True)]
    return ActionSpace(
        names=tuple(names),
        keys=tuple(keys),
        acting=tuple(i for i, name in enumerate(names) if name not in idle),
        kinds=("button",) * len(buttons) + ("axis",) * len(axes),
        scales=(1.0,) * len(buttons) + tuple(map(float, scales)),
    )


def _readings(values: dict[str, Any]) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """`Description.thresholds` and `Description.positions`."""
    buttons, axes = ([*values.get(kind, {}).values()] for kind in ("buttons", "axes"))
    thresholds = [
        each.get("threshold", DEFAULT_THRESHOLD) if isinstance(each, dict) else DEFAULT_THRESHOLD for each in buttons
    ]
    if not all(type(each) in (int, float) and 0 < each <= MAX_SCALE for each in thresholds):
        raise ValueError(f"the thresholds of buttons are {thresholds!r:.60}: they must be positive numbers")
    positions = [isinstance(each, dict) and each.get("kind") == "position" for each in axes]
    return (*thresholds, *[DEFAULT_THRESHOLD] * len(axes)), (*[False] * len(buttons), *positions)


def _parse_keys(name: str, value: Any) -> tuple[str, ...]:
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, list):
        raise ValueError(f'{name} is {keys!r:.40}: expected its keys, such as ["LEFT"]')
    return tuple(_name(f"a key of {name}", key).upper() for key in keys)


def _name(description: str, value: Any) -> str:
    """A name or a key, which may be written as a number, such as 1. Raises ValueError for other values."""
    return check_name(description, str(value) if type(value) is int else value)
