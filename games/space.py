"""Action spaces: the names and keyboard keys of a game's actions, and the vectors that the network gets."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np

from dreamrun.games.untrusted import check_name

NOOP_NAMES = ("noop", "stay")  # accepted names of the action that holds no key; older data sets call it "stay"
UNKNOWN_ACTION = -1  # the id of an action that is not known; in vectors it is NaN

MAX_NAMES = 4096  # actions, or buttons and axes
MAX_KEYS = 64  # of one action
MAX_KEY_CHARS = 64

_ARROW_ALIASES = {"W": "UP", "A": "LEFT", "S": "DOWN", "D": "RIGHT"}


@dataclass(frozen=True)
class ActionSpace:
    """What a player can do: one of several actions at a time (a discrete space), or buttons and axes together.

    In a discrete space a recorded action is an id, int. Else it is a float vector with one number per name: 0 or 1 for
    a button, any number for an axis. An unknown action is UNKNOWN_ACTION, or a vector of NaN.
    """

    names: tuple[str, ...]  # as typed on a command line: "right+jump"
    # Keyboard keys per name. An action of a discrete space: all keys that it holds, ("RIGHT", "UP"). A button: any of
    # these keys presses it. An axis: the key that pushes it down and the one that pushes it up, ("A", "D"), or none.
    keys: tuple[tuple[str, ...], ...]
    acting: tuple[int, ...]  # indices of the names that have an effect; in a discrete space noop counts as one of them
    kinds: tuple[Literal["button", "axis"], ...] = ()  # one per name; empty: a discrete space
    scales: tuple[float, ...] = ()  # one per name: the recorded value of an axis that is 1 in a vector

    def __post_init__(self):
        for name in ("names", "keys", "acting", "kinds", "scales"):  # lists would not compare equal
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name)))
        object.__setattr__(self, "keys", tuple(_as_tuple("the keys of an action", keys) for keys in self.keys))
        num_names = len(self.names)
        if num_names > MAX_NAMES or max(map(len, self.keys), default=0) > MAX_KEYS:
            raise ValueError(f"{num_names} action names: at most {MAX_NAMES} are possible, with {MAX_KEYS} keys each")
        for name in self.names:
            check_name("an action name", name)
        for key in (key for keys in self.keys for key in keys):
            check_name("a key", key, MAX_KEY_CHARS)
        acting = tuple(_as_index(action) for action in self.acting)
        object.__setattr__(self, "acting", acting)
        if not num_names or len(self.keys) != num_names or not {len(self.kinds), len(self.scales)} <= {0, num_names}:
            counts = f"{len(self.keys)} keys, {len(self.kinds)} kinds and {len(self.scales)} scales"
            raise ValueError(f"{num_names} action names with {counts}: expected one of each per name")
        if not self.acting or not set(self.acting) <= set(range(num_names)):
            raise ValueError(f"acting_actions are {self.acting}: expected indices of the {num_names} actions")
        if any(kind not in ("button", "axis") for kind in self.kinds) or bool(self.kinds) != bool(self.scales):
            raise ValueError(f'action_kinds are {self.kinds}: expected "button" or "axis" for each, with a scale')
        if not all(isinstance(scale, Real) and 0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"action_scales are {self.scales}: expected positive numbers")
        object.__setattr__(self, "scales", tuple(map(float, self.scales)))
        if any(kind == "axis" and len(keys) not in (0, 2) for kind, keys in zip(self.kinds, self.keys)):
            raise ValueError("an axis needs two keys, one that pushes it down and one that pushes it up, or none")

    def __len__(self) -> int:
        """A, the length of the vectors that the network gets."""
        return len(self.names) + bool(self.kinds)

    @property
    def discrete(self) -> bool:
        """Whether actions are ids, of which one is taken at a time."""
        return not self.kinds

    @property
    def unconditional(self) -> bool:
        """Whether there is only one action, as in recordings without actions."""
        return self.discrete and len(self.names) == 1

    @property
    def noop(self) -> int | np.ndarray:
        """The recorded action that holds no key (id 0 if there is none), or a vector of zeros."""
        if not self.discrete:
            return np.zeros(len(self.names), np.float32)
        return self.keys.index(()) if () in self.keys else 0

    @property
    def all_keys(self) -> tuple[str, ...]:
        """All keys of acting actions, in the order of first use."""
        return tuple(dict.fromkeys(key for action in self.acting for key in self.keys[action]))

    @property
    def key_aliases(self) -> dict[str, str]:
        """W, A, S and D -> the arrow key that each stands for. Empty if the game uses one of these letters itself."""
        used = {key.upper() for key in self.all_keys}
        if used & _ARROW_ALIASES.keys():
            return {}
        return {letter: arrow for letter, arrow in _ARROW_ALIASES.items() if arrow in used}

    def vectors(self, actions: np.ndarray) -> np.ndarray:
        """Recorded actions -> the vectors that the network gets.

        Args:
            actions: ids (...) int, or vectors (..., names) float.

        Returns:
            float32 (..., A): one-hot for ids. Vectors get a 1 appended, so that noop differs from an unknown action.
            An unknown action is all zeros.
        """
        actions = np.asarray(actions)
        if self.discrete:
            return (actions[..., None] == np.arange(len(self))).astype(np.float32)
        assert actions.shape[-1:] == (len(self.names),), actions.shape
        mask = is_known(actions)[..., None]
        return np.where(mask, np.concatenate((actions, mask), axis=-1), 0).astype(np.float32)

    def unknown(self, *shape: int) -> np.ndarray:
        """Unknown recorded actions: ids of this shape, or vectors (*shape, names)."""
        if self.discrete:
            return np.full(shape, UNKNOWN_ACTION, np.int32)
        return np.full((*shape, len(self.names)), np.nan, np.float32)

    def random(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Random recorded actions that act: ids of this shape, or vectors (*shape, names).

        Each button is pressed with probability 2 / number of buttons, at most 1/2. Axes are N(0, 0.5), clipped to +-1.
        """
        if self.discrete:
            return rng.choice(self.acting, shape).astype(np.int32)
        size = (*shape, len(self.names))
        pressed = rng.random(size) < min(0.5, 2 / max(1, self.kinds.count("button")))
        drawn = np.where(np.array(self.kinds) == "axis", rng.normal(0, 0.5, size).clip(-1, 1), pressed)
        return (drawn * np.isin(np.arange(len(self.names)), self.acting)).astype(np.float32)

    def held_actions(self) -> np.ndarray:
        """The recorded actions that can be held on their own: (K,) ids or (K, names) vectors.

        In a discrete space: the acting ids, those with the fewest keys first. Else: noop, each acting button alone, and
        each acting axis pushed up and down.
        """
        if self.discrete:
            return np.array(sorted(self.acting, key=lambda action: (len(self.keys[action]), action)), np.int32)
        pushes = [(i, sign) for i in self.acting for sign in ((1, -1) if self.kinds[i] == "axis" else (1,))]
        actions = np.tile(self.noop, (1 + len(pushes), 1))
        for action, (i, sign) in zip(actions[1:], pushes, strict=True):
            action[i] = sign
        return actions

    def name_values(self, actions: np.ndarray) -> np.ndarray:
        """Recorded actions -> the value of each name, float32 (..., names). An unknown action is all zeros.

        The value of an id's name is 1, and 0 for all others.
        """
        return self.vectors(actions)[..., : len(self.names)]

    def parse(self, name: str) -> int | np.ndarray:
        """The recorded action that `name` spells, in upper or lower case.

        Buttons and axes are joined by "+", and an axis takes a value: "right+jump", "mouse_x=-0.5". "noop" holds none.
        """
        if self.discrete:
            return self.index(name)
        vector = self.noop
        for part in filter(None, name.strip().lower().split("+")):
            label, _, value = part.partition("=")
            if label.strip() in NOOP_NAMES and label.strip() not in self.names:
                continue
            try:
                vector[self.index(label)] = float(value or 1)
            except ValueError as error:
                raise ValueError(f"{error} (in {name.strip()!r})") from None
        return vector

    def format(self, action: int | np.ndarray) -> str:
        """The name of a recorded action, as `parse` reads it."""
        if self.discrete:
            return self.names[int(action)]
        parts = [
            name if kind == "button" and value == 1 else f"{name}={value:g}"
            for name, kind, value in zip(self.names, self.kinds, action, strict=True)
            if value
        ]
        return "+".join(parts) or "noop"

    def action_for_keys(self, held: Collection[str], candidates: Collection[int] | None = None) -> int | np.ndarray:
        """The recorded action for the keyboard keys that are held.

        In a discrete space this is the action whose keys are all held and that has the most keys. Of two with equally
        many keys it is the one with the newer keys. It is noop if no action's keys are held.

        Args:
            held: names of keys in upper or lower case, the newest last; keys that no action needs are ignored.
            candidates: actions of a discrete space to choose from; None: those that act.
        """
        aliases = self.key_aliases
        press_order = {aliases.get(key.upper(), key.upper()): order for order, key in enumerate(held)}
        if not self.discrete:
            vector = self.noop
            for i, (kind, keys) in enumerate(zip(self.kinds, self.keys, strict=True)):
                down = [key.upper() in press_order for key in keys]
                vector[i] = any(down) if kind == "button" else sum(down[1:]) - sum(down[:1])
            return vector
        needed = {action: {key.upper() for key in self.keys[action]} for action in candidates or self.acting}
        possible = [action for action, keys in needed.items() if press_order.keys() >= keys]

        def priority(action: int) -> tuple[int, list[int], bool]:
            newest_first = sorted((press_order[key] for key in needed[action]), reverse=True)
            return len(newest_first), newest_first, action in self.acting

        return max(possible, key=priority, default=self.noop)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, named as in metadata.json and in a checkpoint's game.json."""
        fields = {
            "action_names": list(self.names),
            "action_keys": [list(keys) for keys in self.keys],
            "acting_actions": list(self.acting),
        }
        if self.discrete:
            return fields
        return {**fields, "action_kinds": list(self.kinds), "action_scales": list(self.scales)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActionSpace:
        """The inverse of `to_dict`. Ignores other fields.

        Raises:
            KeyError, TypeError, ValueError: fields are missing or contradict each other.
        """
        return cls(
            names=values["action_names"],
            keys=values["action_keys"],
            acting=values["acting_actions"],
            kinds=values.get("action_kinds", ()),
            scales=values.get("action_scales", ()),
        )

    def index(self, name: str) -> int:
        """The index of `name` in `names`. Case and order are ignored: "Jump+right" is "right+jump"."""
        words = _sorted_words(name)
        for index, candidate in enumerate(self.names):
            if _sorted_words(candidate) == words:
                return index
        if name.strip().lower() in NOOP_NAMES and () in self.keys:
            return self.keys.index(())
        joined = " (one at a time: they cannot be joined)" if self.discrete and "+" in name else ""
        raise ValueError(f"unknown action {name.strip()!r}: the actions are {', '.join(self.names)}{joined}")


def _as_tuple(description: str, values: Iterable[Any]) -> tuple:
    """A list or tuple as a tuple. Text is no list: it would be split into letters."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{description} are {values!r:.40}: expected a tuple or a list, such as ('LEFT',)")
    return tuple(values)


def _as_index(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"acting_actions hold {value!r:.40}: expected integers") from None


def _sorted_words(name: str) -> list[str]:
    """ "Right+jump" -> ["jump", "right"]."""
    return sorted(word.strip() for word in name.lower().split("+"))


def unknown_action_value(actions: np.ndarray) -> float:
    """The value of an unknown action in an array of recorded actions: UNKNOWN_ACTION for ids, NaN for vectors."""
    return UNKNOWN_ACTION if actions.dtype.kind == "i" else np.nan


def is_known(actions: np.ndarray) -> np.ndarray:
    """Recorded actions, ids (...) or vectors (..., names) -> whether each is known, bool (...)."""
    return actions != UNKNOWN_ACTION if actions.dtype.kind == "i" else ~np.isnan(actions).any(-1)


def unnamed_actions(num_actions: int) -> ActionSpace:
    """A discrete space of which only the size is known: names are indices, and there are no keys."""
    return ActionSpace(
        names=tuple(str(action) for action in range(num_actions)),
        keys=((),) * num_actions,
        acting=tuple(range(num_actions)),
    )


# The space of recordings without actions: a single action that says nothing.
UNCONDITIONAL = ActionSpace(names=("none",), keys=((),), acting=(0,))
