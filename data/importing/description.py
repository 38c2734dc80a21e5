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
_TRUTH = {"true": 1.0, "false": 0.0}  # as pandas and JSON write columns of yes and no
_TOP_LEVEL_KEYS = ("stand_still", "ignored")  # of actions.toml, above its tables
_TABLES = ("actions", "buttons", "axes", "recorded")


@dataclass(frozen=True)
class Description:
    """The content of an actions.toml."""

    space: ActionSpace
    recorded: dict[str, str]  # names in recordings -> names in the action space, lower case
    ignored: tuple[str, ...]  # recorded keys that no action needs, lower case; "*": all unknown keys

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
            held = [key for recorded in _split_keys(fields["keys"]) for key in self._keyboard_keys(recorded)]
            return space.action_for_keys(held, candidates=range(len(space.names)))
        vector = self._from_value(fields["action"]) if "action" in fields else space.noop
        for key in _split_keys(fields.get("keys", ())):
            self._add(vector, key, 1.0)
        if "buttons" in fields:
            vector = np.maximum(vector, self.from_bits(np.array(int(fields["buttons"]))))
        for key, value in fields.items():
            if key not in _RESERVED_COLUMNS:
                self._add(vector, key, value)
        return vector

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
            if values.size and not 0 <= values.min() <= values.max() < len(space.names):
                raise ValueError(f"the action is {values.max()}: actions.toml has 0 to {len(space.names) - 1}")
            return values.astype(np.int32)
        if space.discrete or values.ndim != 2 or values.shape[1] != len(space.names) or values.dtype.kind not in "iufb":
            raise ValueError(f"its actions are {values.dtype} {values.shape}: actions.toml describes others")
        if not np.isfinite(values).all():
            raise ValueError("its actions are not finite")
        is_axis = np.array(space.kinds) == "axis"
        return np.where(is_axis, values / np.array(space.scales), values > 0).astype(np.float32)

    def _from_value(self, value: Any) -> int | np.ndarray:
        """The recorded action of a column `action`: a list of numbers, an id, or a name."""
        if isinstance(value, list):
            return self.from_array(np.array([value], np.float64))[0]
        text = str(value).strip()
        if re.fullmatch(r"-?\d+(\.0*)?", text):
            return self.from_array(np.array([int(float(text))]))[0]
        return self.space.parse(self.recorded.get(text.lower(), text))

    def _add(self, vector: np.ndarray, key: str, value: Any) -> None:
        """Add the value of a recorded key or column to a vector: press a button, or move an axis."""
        i = self.key_index(key)
        if i is None:
            return
        text = str(value).strip()
        try:
            number = float(_TRUTH.get(text.lower(), text or 0.0))
        except ValueError:
            raise ValueError(f"{key} is {value!r}: expected a number") from None
        if not np.isfinite(number):
            raise ValueError(f"{key} is {value!r}: expected a finite number")
        is_axis = self.space.kinds[i] == "axis"
        vector[i] = vector[i] + number / self.space.scales[i] if is_axis else max(vector[i], float(number > 0))


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
        description = Description(_action_space(values), recorded, ignored)
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
    scales = [axis.get("scale", 1.0) for axis in axis_tables]
    if not all(type(scale) in (int, float) and 0 < scale <= MAX_SCALE for scale in scales):
        raise ValueError(f"the scales of axes are {scales!r:.60}: they must be positive numbers")
    keys = [_parse_keys(name, value) for name, value in buttons.items()]
    keys += [_parse_keys(name, axis.get("keys", [])) for name, axis in zip(axes, axis_tables, strict=True)]
    return ActionSpace(
        names=tuple(names),
        keys=tuple(keys),
        acting=tuple(i for i, name in enumerate(names) if name not in idle),
        kinds=("button",) * len(buttons) + ("axis",) * len(axes),
        scales=(1.0,) * len(buttons) + tuple(map(float, scales)),
    )


def _parse_keys(name: str, value: Any) -> tuple[str, ...]:
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, list):
        raise ValueError(f'{name} is {keys!r:.40}: expected its keys, such as ["LEFT"]')
    return tuple(_name(f"a key of {name}", key).upper() for key in keys)


def _split_keys(keys: Any) -> list[str]:
    """Keys from a list, or from text with "+", "," or ";" between them. "left shift" is one key."""
    parts = keys if isinstance(keys, list | tuple) else re.split("[+,;]", str(keys))
    return [key for part in parts if (key := str(part).strip())]


def _name(description: str, value: Any) -> str:
    """A name or a key, which may be written as a number, such as 1. Raises ValueError for other values."""
    return check_name(description, str(value) if type(value) is int else value)
