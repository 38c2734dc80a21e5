"""Read frozen dataclasses from JSON values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


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
        raise ValueError(f"unknown {description}: {', '.join(unknown)}")
    try:
        return cls(**{name: _lists_to_tuples(value) for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"bad {description}: {error}") from None


def _lists_to_tuples(value: Any) -> Any:
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list) else value
