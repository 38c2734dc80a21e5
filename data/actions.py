"""Action spaces: names, keys, one-hot vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_ACTION = -1  # "no action known": the zero vector


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
