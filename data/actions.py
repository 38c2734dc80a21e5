"""Action spaces: names, keys, one-hot vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NO_ACTION = -1  # "no action known": the zero vector

PROCGEN_GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"),
    *("heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
_PROCGEN_KEYS = (
    *(("LEFT", "DOWN"), ("LEFT",), ("LEFT", "UP"), ("DOWN",), (), ("UP",), ("RIGHT", "DOWN"), ("RIGHT",)),
    *(("RIGHT", "UP"), ("D",), ("A",), ("W",), ("S",), ("Q",), ("E",)),
)
_JUMPING_GAMES = ("coinrun", "climber", "jumper", "ninja")
# Keys that change nothing within four steps, measured over 384 states of each game by saving and restoring its state
# (DOWN in CoinRun: in 1 % of them).
_IDLE_KEYS = {
    **dict.fromkeys(("bigfish", "chaser", "heist", "leaper", "maze", "miner"), "D A W S Q E"),
    **dict.fromkeys(("bossfight", "caveflyer", "dodgeball"), "A W S Q E"),
    **dict.fromkeys(("climber", "coinrun", "jumper"), "DOWN D A W S Q E"),
    **dict.fromkeys(("fruitbot", "plunder"), "UP DOWN A W S Q E"),
    **{"ninja": "DOWN", "starpilot": ""},
}
_NO_DIAGONALS = ("leaper", "maze", "miner")  # two arrows held do what the sideways one does
_ARROW_ALIASES = {"W": "UP", "A": "LEFT", "S": "DOWN", "D": "RIGHT"}


@dataclass(frozen=True)
class ActionSpace:
    """A discrete action space, index by index."""

    names: tuple[str, ...]  # as typed on a command line: "right+jump"
    keys: tuple[tuple[str, ...], ...]  # keyboard keys held for each action: ("RIGHT", "UP")
    acting: tuple[int, ...]  # the actions that ever do something, standing still included

    def __len__(self) -> int:
        """A, the length of an action vector."""
        return len(self.names)

    @property
    def stay(self) -> int:
        """The action of holding no key (0 if there is none)."""
        return self.keys.index(()) if () in self.keys else 0

    @property
    def all_keys(self) -> tuple[str, ...]:
        """Every key that some acting action holds, in order of first use."""
        return tuple(dict.fromkeys(key for action in self.acting for key in self.keys[action]))

    @property
    def key_aliases(self) -> dict[str, str]:
        """Keys that do what an arrow does: W A S D, unless one of them does something of its own in this game."""
        own = {*self.all_keys}
        return {} if own & _ARROW_ALIASES.keys() else {key: to for key, to in _ARROW_ALIASES.items() if to in own}

    def action_for_keys(self, held: Sequence[str]) -> int:
        """The acting action whose keys are all held and that holds the most of them; `stay` where there is none.

        Args:
            held: keys by name, the newest last: of two actions that hold as many, the one with the newer keys is meant.
                Unknown ones do nothing.
        """
        aliases = self.key_aliases
        ages = {aliases.get(key, key): age for age, key in enumerate(held)}
        fitting = [action for action in self.acting if ages.keys() >= {*self.keys[action]}]

        def weight(action: int) -> tuple[int, list[int]]:
            return len(self.keys[action]), sorted((ages[key] for key in self.keys[action]), reverse=True)

        return max(fitting, key=weight, default=self.stay)

    def index(self, name: str) -> int:
        """The action called `name`, in any case.

        Raises:
            ValueError: no such action; lists those that there are.
        """
        lowered = [known.lower() for known in self.names]
        if name.strip().lower() not in lowered:
            raise ValueError(f"unknown action {name.strip()!r}: the actions are {', '.join(self.names)}")
        return lowered.index(name.strip().lower())

    def one_hot(self, actions: np.ndarray) -> np.ndarray:
        """Indices (...) int, NO_ACTION included -> vectors (..., A) float32."""
        return (np.asarray(actions)[..., None] == np.arange(len(self))).astype(np.float32)


def numbered(num_actions: int) -> ActionSpace:
    """A space of which only the number of actions is known: named by index, without keys."""
    return ActionSpace(
        names=tuple(str(action) for action in range(num_actions)),
        keys=((),) * num_actions,
        acting=tuple(range(num_actions)),
    )


def procgen_actions(game: str) -> ActionSpace:
    """The 15 actions of a Procgen game; those that do something of their own, standing still included, are acting."""
    idle, most_keys = _IDLE_KEYS[game].split(), 1 if game in _NO_DIAGONALS else 2
    return ActionSpace(
        names=tuple(_procgen_action_name(keys, game in _JUMPING_GAMES) for keys in _PROCGEN_KEYS),
        keys=_PROCGEN_KEYS,
        acting=tuple(
            action
            for action, keys in enumerate(_PROCGEN_KEYS)
            if len(keys) <= most_keys and not any(key in idle for key in keys)
        ),
    )


def _procgen_action_name(keys: tuple[str, ...], jumps: bool) -> str:
    words = [key if len(key) == 1 else key.lower() for key in keys]
    return "+".join("jump" if word == "up" and jumps else word for word in words) or "stay"
