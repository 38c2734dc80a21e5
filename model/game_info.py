"""The game that a checkpoint was trained on, as plain fields."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from dreamrun.model.json_fields import check_int, dataclass_from_json

MAX_ITEMS = 4096  # actions, keys or options
MAX_CHARS = 200  # of a name
MAX_GAMES = 64  # of one network
MAX_CAPTION_CHARS = 1000
MAX_SIDE = 4096  # pixels of a frame
# Control characters and marks that reverse the direction of text: a terminal would obey them.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def check_text(description: str, text: Any, max_chars: int = MAX_CHARS) -> None:
    """Raises ValueError unless it is short text without control characters."""
    if not isinstance(text, str) or len(text) > max_chars or _CONTROL.search(text):
        raise ValueError(f"{description} is {text!r:.40}: expected at most {max_chars} characters, none a control one")


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
    games: tuple[GameSlice, ...] = ()  # of a network of several games, which leaves the fields above empty

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
        if len(self.games) > MAX_GAMES or not all(isinstance(game, GameSlice) for game in self.games):
            raise ValueError(f"games are {self.games!r:.40}: expected a list of at most {MAX_GAMES} games")
        scales = self.action_scales
        if not isinstance(scales, tuple) or any(type(s) not in (int, float) or not 0 < s < math.inf for s in scales):
            raise ValueError(f"action_scales are {scales!r:.60}: expected positive numbers")

    def check(self, num_actions: int) -> None:
        """Check the actions against the length A of the network's action vectors.

        Raises:
            ValueError: they differ, or the slices of several games do not go together.
        """
        if self.games:
            _check_slices(self.games, num_actions)
        if self.action_names and len(self.action_names) + bool(self.action_kinds) != num_actions:
            raise ValueError(f"{len(self.action_names)} action names for num_actions {num_actions}")

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, ready for JSON."""
        values = asdict(replace(self, games=()))
        del values["games"]
        return {**values, "games": [game.to_dict() for game in self.games]} if self.games else values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GameInfo:
        """The inverse of `to_dict` after a round trip through JSON.

        Raises:
            ValueError: an unknown field, or a value of another type.
        """
        games = values.get("games", []) if isinstance(values, dict) else []
        if not games:
            return dataclass_from_json(cls, values, "game settings")
        if not isinstance(games, list) or len(games) > MAX_GAMES:
            raise ValueError(f"games are {games!r:.40}: expected a list of at most {MAX_GAMES} games")
        if any(not isinstance(game, dict) or game.get("games") for game in games):
            raise ValueError("one of several games is no description, or holds games itself")
        slices = tuple(dataclass_from_json(GameSlice, game, "game settings") for game in games)
        return replace(dataclass_from_json(cls, {**values, "games": []}, "game settings"), games=slices)

    @classmethod
    def field_names(cls) -> set[str]:
        """Names of all fields. Checkpoints of earlier versions hold them in `config.json`."""
        return {field.name for field in fields(cls)}


@dataclass(frozen=True)
class GameSlice(GameInfo):
    """One of a network's several games. Its action vectors are a slice of the network's; the rest of that is zero."""

    name: str = ""  # by which users choose it
    frame_height: int = 64  # pixels
    frame_width: int = 64  # pixels
    action_offset: int = 0  # where its slice of the action vector begins
    caption: str = ""  # what is played, in words

    def __post_init__(self):
        super().__post_init__()
        check_text("the name of a game", self.name)
        check_text("the caption of a game", self.caption, MAX_CAPTION_CHARS)
        check_int("frame_height", self.frame_height, 1, MAX_SIDE)
        check_int("frame_width", self.frame_width, 1, MAX_SIDE)
        check_int("action_offset", self.action_offset, 0, MAX_GAMES * MAX_ITEMS)
        if not self.name or not self.action_names:
            raise ValueError("one of several games has no name, or no names of its actions")

    @property
    def num_actions(self) -> int:
        """Length of the game's slice."""
        return len(self.action_names) + bool(self.action_kinds)

    def alone(self) -> GameInfo:
        """The game as that of a network of its own."""
        return GameInfo(**{field.name: getattr(self, field.name) for field in fields(GameInfo)})


def _check_slices(games: tuple[GameSlice, ...], num_actions: int) -> None:
    """Raises ValueError unless the names differ, and slices lie in the vector and are equal or apart."""
    if len({game.name for game in games}) < len(games):
        raise ValueError("two games have the same name")
    numbers: dict[tuple, int] = {}  # of each description, so that a long one is compared once
    owners: dict[int, int] = {}  # of each number of the vector
    for game in games:
        number = numbers.setdefault((game.action_offset, game.action_names, game.action_kinds), len(numbers))
        for index in range(game.action_offset, game.action_offset + game.num_actions):
            if index >= num_actions or owners.setdefault(index, number) != number:
                raise ValueError(f"the actions of {game.name} overlap those of another game, or end past {num_actions}")
