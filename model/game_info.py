"""The game that a checkpoint was trained on, as plain fields."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from model.json_fields import dataclass_from_json


@dataclass(frozen=True)
class GameInfo:
    """What a checkpoint knows about its game. Saved as `game.json`, beside the network's `config.json`.

    `data.actions.ActionSpace.from_dict(game.to_dict())` gives the action space.
    """

    environment: str = ""  # name of the game in the data set
    environment_options: tuple[tuple[str, Any], ...] = ()  # (name, value) pairs that the game was created with
    action_names: tuple[str, ...] = ()  # one name per action, button or axis; empty: unknown
    action_keys: tuple[tuple[str, ...], ...] = ()  # keyboard keys of each action
    acting_actions: tuple[int, ...] = ()  # indices of the actions that ever have an effect
    action_kinds: tuple[str, ...] = ()  # "button" or "axis", where several are held together; empty: one at a time
    action_scales: tuple[float, ...] = ()  # the amount of each axis that is 1 in an action vector
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
