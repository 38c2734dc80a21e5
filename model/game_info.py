"""The game that a checkpoint was trained on, as plain fields."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from model.json_fields import dataclass_from_json

MAX_ITEMS = 4096  # actions, keys or options
MAX_CHARS = 200  # of a name
# Control characters and marks that reverse the direction of text: a terminal would obey them.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_text(description: str, text: Any) -> None:
    """Raises ValueError unless it is short text without control characters."""
    if not isinstance(text, str) or len(text) > MAX_CHARS or _CONTROL.search(text):
        raise ValueError(f"{description} is {text!r:.40}: expected at most {MAX_CHARS} characters, none a control one")


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

    def __post_init__(self):
        check_text("environment", self.environment)
        if type(self.fps) not in (int, float) or not 0.01 <= self.fps <= 1000:
            raise ValueError(f"fps is {self.fps!r:.40}: it must lie in 0.01 to 1000")
        for name in ("environment_options", "action_names", "action_keys", "acting_actions", "action_kinds"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) > MAX_ITEMS:
                raise ValueError(f"{name} is {values!r:.40}: expected a list of at most {MAX_ITEMS} items")
        for option in self.environment_options:
            if not isinstance(option, tuple) or len(option) != 2:
                raise ValueError(f"an item of environment_options is {option!r:.40}: expected a name and a value")
            check_text("the name of an environment option", option[0])
            if isinstance(option[1], str):
                check_text(f"the environment option {option[0]}", option[1])
            elif option[1] is not None and not isinstance(option[1], bool | int | float):
                raise ValueError(f"the environment option {option[0]} is {option[1]!r:.40}: expected text or a number")
        for name in self.action_names:
            check_text("an action name", name)
        for keys in self.action_keys:
            if not isinstance(keys, tuple) or len(keys) > MAX_ITEMS:
                raise ValueError(f"the keys of an action are {keys!r:.40}: expected a list")
            for key in keys:
                check_text("a key", key)
        if any(type(action) is not int or not 0 <= action < MAX_ITEMS for action in self.acting_actions):
            raise ValueError(f"acting_actions are {self.acting_actions!r:.60}: expected indices of actions")
        if any(kind not in ("button", "axis") for kind in self.action_kinds):
            raise ValueError(f'action_kinds are {self.action_kinds!r:.60}: expected "button" or "axis"')
        scales = self.action_scales
        if not isinstance(scales, tuple) or any(type(s) not in (int, float) or not 0 < s < math.inf for s in scales):
            raise ValueError(f"action_scales are {scales!r:.60}: expected positive numbers")

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
