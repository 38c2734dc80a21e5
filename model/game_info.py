"""The game that a network was trained on, as plain fields."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class GameInfo:
    """What a checkpoint knows about its game. Saved as `game.json`, beside the network's `config.json`.

    `data.actions.ActionSpace.from_dict(game.to_dict())` gives the action space.
    """

    environment: str = ""  # the game, as the data set named it
    environment_options: tuple[tuple[str, Any], ...] = ()  # (name, value) pairs that the game was made with
    action_names: tuple[str, ...] = ()  # one name per action, button or axis; empty: unknown
    action_keys: tuple[tuple[str, ...], ...] = ()  # keyboard keys of each
    acting_actions: tuple[int, ...] = ()  # those that ever have an effect
    action_kinds: tuple[str, ...] = ()  # "button" or "axis", where several are held together; empty: one at a time
    action_scales: tuple[float, ...] = ()  # how much of each axis is 1 in an action vector
    fps: float = 15.0  # frames per second of the game

    def check(self, num_actions: int) -> None:
        """Check the actions against the length A of the network's action vectors.

        Raises:
            ValueError: they differ.
        """
        if self.action_names and len(self.action_names) + bool(self.action_kinds) != num_actions:
            raise ValueError(f"{len(self.action_names)} action names for num_actions {num_actions}")

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GameInfo:
        """The inverse of `to_dict` after a round trip through JSON.

        Raises:
            ValueError: an unknown field, or a value of another type.
        """
        return dataclass_from_json(cls, values, "game settings")

    @classmethod
    def field_names(cls) -> set[str]:
        """Names of all fields. Checkpoints of earlier versions hold them in `config.json`."""
        return {field.name for field in fields(cls)}


def dataclass_from_json(cls: type, values: Any, what: str) -> Any:
    """Make a frozen dataclass from JSON values; lists become tuples.

    Raises:
        ValueError: no dict, an unknown field (of another program or a newer version), or a bad value.
    """
    if not isinstance(values, dict):
        raise ValueError(f"it holds no {what}")
    unknown = sorted(set(values) - {field.name for field in fields(cls)})
    if unknown:
        raise ValueError(f"unknown {what}: {', '.join(unknown)}")
    try:
        return cls(**{name: _as_tuple(value) for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"bad {what}: {error}") from None


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value
