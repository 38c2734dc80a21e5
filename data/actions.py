"""Action spaces: names and keys of what can be done, and the vectors that the network is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

NOOP_NAMES = ("noop", "stay")  # accepted for the action of holding no key; older data sets call it "stay"
UNKNOWN_ACTION = -1  # "no action known", where actions are ids

_ARROW_ALIASES = {"W": "UP", "A": "LEFT", "S": "DOWN", "D": "RIGHT"}


@dataclass(frozen=True)
class ActionSpace:
    """What a player can do: one of several actions at a time (a discrete space), or buttons and axes together.

    A recorded action is an id, int, in a discrete space; else a float vector with a number for each name: 0 or 1 for
    a button, any for an axis. Where no action is known, it is NO_ACTION, or a vector of NaN.
    """

    names: tuple[str, ...]  # as typed on a command line: "right+jump"
    # Keyboard keys: those that an action holds, ("RIGHT", "UP"); that press a button, any of them; or that push an axis
    # down and up, ("A", "D"), empty for a mouse.
    keys: tuple[tuple[str, ...], ...]
    acting: tuple[int, ...]  # which ever do something; in a discrete space standing still is one of them
    kinds: tuple[Literal["button", "axis"], ...] = ()  # one a name; empty: a discrete space
    scales: tuple[float, ...] = ()  # one a name: how much of an axis is 1 in a vector, in the recording's own units

    def __post_init__(self):
        for name in ("names", "keys", "acting", "kinds", "scales"):  # lists would not be equal to what is read again
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "keys", tuple(map(tuple, self.keys)))
        num_names = len(self.names)
        if not num_names or len(self.keys) != num_names or not {len(self.kinds), len(self.scales)} <= {0, num_names}:
            counts = f"{len(self.keys)} keys, {len(self.kinds)} kinds and {len(self.scales)} scales"
            raise ValueError(f"{num_names} action names, with {counts}")
        if not self.acting or not set(self.acting) <= set(range(num_names)):
            raise ValueError(f"acting_actions are {self.acting}, of {num_names} actions")
        if not set(self.kinds) <= {"button", "axis"} or bool(self.kinds) != bool(self.scales):
            raise ValueError(f'action_kinds are {self.kinds}: each is "button" or "axis", with a scale')
        if any(kind == "axis" and len(keys) not in (0, 2) for kind, keys in zip(self.kinds, self.keys)):
            raise ValueError("an axis has two keys, that push it down and up, or none")

    def __len__(self) -> int:
        """A, the length of the vectors that the network is given."""
        return len(self.names) + bool(self.kinds)

    @property
    def discrete(self) -> bool:
        """Whether actions are ids, one at a time."""
        return not self.kinds

    @property
    def unconditional(self) -> bool:
        """Whether there is nothing to choose: a recording without actions."""
        return self.discrete and len(self.names) == 1

    @property
    def noop(self) -> int | np.ndarray:
        """The action of holding no key (the first if there is none), or a vector of zeros."""
        if not self.discrete:
            return np.zeros(len(self.names), np.float32)
        return self.keys.index(()) if () in self.keys else 0

    @property
    def all_keys(self) -> tuple[str, ...]:
        """Every key that something acting needs, in order of first use."""
        return tuple(dict.fromkeys(key for action in self.acting for key in self.keys[action]))

    @property
    def key_aliases(self) -> dict[str, str]:
        """Keys that do what an arrow does: W A S D, unless one of them does something of its own in this game."""
        own = {key.upper() for key in self.all_keys}
        return {} if own & _ARROW_ALIASES.keys() else {key: to for key, to in _ARROW_ALIASES.items() if to in own}

    def vectors(self, actions: np.ndarray) -> np.ndarray:
        """Recorded actions -> what the network is given.

        Args:
            actions: ids (...) int, or vectors (..., len(names)) float.

        Returns:
            (..., A) float32: one-hot for ids; vectors with a 1 at the end, which tells standing still from not knowing.
            Zeros where no action is known.
        """
        actions = np.asarray(actions)
        if self.discrete:
            return (actions[..., None] == np.arange(len(self))).astype(np.float32)
        assert actions.shape[-1:] == (len(self.names),), actions.shape
        mask = is_known(actions)[..., None]
        return np.where(mask, np.concatenate((actions, mask), axis=-1), 0).astype(np.float32)

    def unknown(self, *shape: int) -> np.ndarray:
        """Recorded actions of that shape, none of them known."""
        if self.discrete:
            return np.full(shape, UNKNOWN_ACTION, np.int32)
        return np.full((*shape, len(self.names)), np.nan, np.float32)

    def random(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """Recorded actions of that shape, any that act: of buttons two at a time on average, half of them at most."""
        if self.discrete:
            return rng.choice(self.acting, shape).astype(np.int32)
        size = (*shape, len(self.names))
        held = rng.random(size) < min(0.5, 2 / max(1, self.kinds.count("button")))
        drawn = np.where(np.array(self.kinds) == "axis", rng.normal(0, 0.5, size).clip(-1, 1), held)
        return (drawn * np.isin(np.arange(len(self.names)), self.acting)).astype(np.float32)

    def held(self, actions: np.ndarray) -> np.ndarray:
        """Recorded actions (...) -> how much of each name is in them, (..., len(names)); zeros where none is known."""
        return self.vectors(actions)[..., : len(self.names)]

    def parse(self, name: str) -> int | np.ndarray:
        """The recorded action called `name`, in any case.

        Of buttons and axes, several may be held together, "right+jump", an axis with its number, "mouse_x=-0.5"; "noop"
        holds none.

        Raises:
            ValueError: no such action; lists those that there are.
        """
        if self.discrete:
            return self.index(name)
        vector = self.noop
        for part in filter(None, name.strip().lower().split("+")):
            what, _, number = part.partition("=")
            if what.strip() in NOOP_NAMES and what.strip() not in self.names:
                continue
            try:
                vector[self.index(what)] = float(number or 1)
            except ValueError as error:
                raise ValueError(f"{error} (in {name.strip()!r})") from None
        return vector

    def format(self, action: int | np.ndarray) -> str:
        """What a recorded action is called, as `parse` takes it."""
        if self.discrete:
            return self.names[int(action)]
        parts = [
            name if kind == "button" and value == 1 else f"{name}={value:g}"
            for name, kind, value in zip(self.names, self.kinds, action, strict=True)
            if value
        ]
        return "+".join(parts) or "noop"

    def action_for_keys(self, held: Collection[str], among: Collection[int] | None = None) -> int | np.ndarray:
        """The recorded action for keys of the keyboard that are held.

        In a discrete space the one whose keys are all held and that needs the most of them; `stay` where there is none.

        Args:
            held: keys by name, in any case, the newest last: of two actions that need as many, the one with the newer
                keys is meant. Those that no action needs are ignored.
            among: actions of a discrete space to choose from; None: those that act.
        """
        aliases = self.key_aliases
        ages = {aliases.get(key.upper(), key.upper()): age for age, key in enumerate(held)}
        if not self.discrete:
            vector = self.noop
            for i, (kind, keys) in enumerate(zip(self.kinds, self.keys, strict=True)):
                down = [key.upper() in ages for key in keys]
                vector[i] = any(down) if kind == "button" else sum(down[1:]) - sum(down[:1])
            return vector
        needed = {action: {key.upper() for key in self.keys[action]} for action in among or self.acting}
        fitting = [action for action, keys in needed.items() if ages.keys() >= keys]

        def weight(action: int) -> tuple[int, list[int], bool]:
            newest_first = sorted((ages[key] for key in needed[action]), reverse=True)
            return len(newest_first), newest_first, action in self.acting

        return max(fitting, key=weight, default=self.noop)

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, ready for JSON; named as in metadata.json and in a checkpoint's config.json."""
        fields = {
            "action_names": list(self.names),
            "action_keys": [list(keys) for keys in self.keys],
            "acting_actions": list(self.acting),
        }
        parts = {"action_kinds": list(self.kinds), "action_scales": list(self.scales)}
        return fields if self.discrete else {**fields, **parts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActionSpace:
        """The inverse of `to_dict`; other fields are ignored.

        Raises:
            KeyError, TypeError, ValueError: fields that are missing or do not fit together.
        """
        return cls(
            names=tuple(map(str, values["action_names"])),
            keys=tuple(tuple(map(str, keys)) for keys in values["action_keys"]),
            acting=tuple(map(int, values["acting_actions"])),
            kinds=tuple(map(str, values.get("action_kinds", ()))),
            scales=tuple(map(float, values.get("action_scales", ()))),
        )

    def index(self, name: str) -> int:
        """The place of `name`, in any case; "jump+right" is "right+jump".

        Raises:
            ValueError: no such action; lists those that there are.
        """
        wanted = _words(name)
        for index, own in enumerate(self.names):
            if _words(own) == wanted:
                return index
        if name.strip().lower() in NOOP_NAMES and () in self.keys:
            return self.keys.index(())
        raise ValueError(f"unknown action {name.strip()!r}: the actions are {', '.join(self.names)}")


def _words(name: str) -> list[str]:
    """Those of "right+jump", in an order of their own, so that "Jump+right" is the same."""
    return sorted(word.strip() for word in name.lower().split("+"))


def unknown_action_value(actions: np.ndarray) -> float:
    """What stands in recorded actions, ids or vectors, where none is known."""
    return UNKNOWN_ACTION if actions.dtype.kind == "i" else np.nan


def is_known(actions: np.ndarray) -> np.ndarray:
    """Which of recorded actions, ids (...) or vectors (..., names), are known: bool (...)."""
    return actions != UNKNOWN_ACTION if actions.dtype.kind == "i" else ~np.isnan(actions).any(-1)


def unnamed_actions(num_actions: int) -> ActionSpace:
    """A space of which only the number of actions is known: named by index, without keys."""
    return ActionSpace(
        names=tuple(str(action) for action in range(num_actions)),
        keys=((),) * num_actions,
        acting=tuple(range(num_actions)),
    )


# A recording of which no actions are known: there is one, and it says nothing.
UNCONDITIONAL = ActionSpace(names=("none",), keys=((),), acting=(0,))
