"""Read frozen dataclasses from JSON files, which may come from strangers."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 2**23  # of config.json and of game.json


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file is too large, nested too deeply, or holds no object.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {MAX_JSON_BYTES // 2**20} MiB")
    try:
        values = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("it holds no settings")
    return values


def dataclass_from_json(cls: type, values: Any, description: str) -> Any:
    """Make a frozen dataclass from JSON values. Lists become tuples.

    Args:
        cls: the dataclass.
        values: the parsed JSON; a dict of its fields.
        description: what the values are, for error messages.

    Raises:
        ValueError: `values` is no dict, has an unknown field (of another program or a newer version), or a bad value.
    """
    if not isinstance(values, dict):
        raise ValueError(f"it holds no {description}")
    unknown = sorted(set(values) - {field.name for field in fields(cls)})
    if unknown:
        raise ValueError(f"unknown {description}: {', '.join(unknown[:8])}"[:200])
    try:
        return cls(**{name: _lists_to_tuples(value) for name, value in values.items()})
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"bad {description}: {error}") from None


def _lists_to_tuples(value: Any) -> Any:
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value


def check_int(name: str, value: Any, minimum: int, maximum: int) -> None:
    """Raises ValueError unless the value is an integer in a range. A bool or a float such as 8.0 is none."""
    if type(value) is not int:
        raise ValueError(f"{name} is {value!r:.40}: it must be an integer")
    if value < minimum:
        raise ValueError(f"{name} is {value!r:.40}: it must be at least {minimum}")
    if value > maximum:
        raise ValueError(f"{name} is {value!r:.40}: it must be at most {maximum}")
