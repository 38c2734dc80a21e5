"""Action spaces as they are played: a key for everything, and actions as JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from data.actions import ActionSpace, is_known
from model import WorldModel
from play.messages import MAX_KEY_LETTERS
from training.setup import action_space

# For what has no keys. Of two, the first pushes an axis down and the second up; a mouse's y grows downwards.
_ARROWS = (("LEFT", "RIGHT"), ("UP", "DOWN"))
_PAIRS = ("JL", "IK", "FH", "TG", "12", "34", "56", "78", "90", "ZX", "CV", "BM", "QE", "UO")
_SINGLES = "1234567890QEZXCVBMUOJLIKFHTG"


def playable_actions(model: WorldModel) -> ActionSpace:
    """A checkpoint's actions; those that act and have no keys are given some that are free.

    Raises:
        ValueError: the checkpoint's actions do not fit together.
    """
    space = action_space(model)
    if space.unconditional or (space.discrete and space.all_keys):
        return space  # an action without keys is standing still
    keys, taken = list(space.keys), {key.upper() for own in space.keys for key in own}
    pairs = list(map(tuple, _PAIRS)) if taken & {"LEFT", "RIGHT", "UP", "DOWN"} else [*_ARROWS, *map(tuple, _PAIRS)]
    for i in (i for i in space.acting if not keys[i]):
        name = space.names[i].upper()
        # When the keyboard is used up, they are buttons of the page alone, by name.
        if not space.discrete and space.kinds[i] == "axis":
            by_name = tuple(f"{name[: MAX_KEY_LETTERS - 1]}{sign}" for sign in "-+")
            keys[i] = next((pair for pair in pairs if not taken & {*pair}), by_name)
        else:
            singles = (name, *_SINGLES) if len(name) == 1 else _SINGLES
            keys[i] = (next((key for key in singles if key not in taken), name[:MAX_KEY_LETTERS]),)
        taken |= {*keys[i]}
    return replace(space, keys=tuple(keys))


def key_labels(space: ActionSpace) -> dict[str, str]:
    """What each key does, by the key."""
    labels = {key.upper(): key.lower() for key in space.all_keys}
    for i in reversed(space.acting):  # of several that a key does, the first is told
        if space.discrete and len(space.keys[i]) != 1:
            continue
        signs = "-+" if space.kinds and space.kinds[i] == "axis" else [""] * len(space.keys[i])
        labels |= {key.upper(): f"{space.names[i]}{sign}" for key, sign in zip(space.keys[i], signs, strict=False)}
    return labels


def to_plain(actions: int | np.ndarray) -> Any:
    """Recorded actions as JSON has them: NaN is null."""
    actions = np.asarray(actions)
    return (actions if actions.dtype.kind == "i" else np.where(np.isnan(actions), None, actions)).tolist()


def from_plain(values: Any, space: ActionSpace) -> np.ndarray:
    """The inverse of `to_plain`, of a row of actions: ids (T,) or vectors (T, names).

    Raises:
        TypeError, ValueError, OverflowError: these are no actions of the space.
    """
    wanted = space.unknown(0)
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        actions = np.array(values, np.int64 if space.discrete else np.float32)
    if actions.ndim != wanted.ndim or actions.shape[1:] != wanted.shape[1:]:
        what = "one number" if space.discrete else f"a row of {len(space.names)} numbers"
        raise ValueError(f"actions of shape {actions.shape}: expected {what} a frame")
    own = actions[is_known(actions)]
    if space.discrete and own.size and not 0 <= own.min() <= own.max() < len(space.names):
        raise ValueError(f"its actions are not numbers from 0 to {len(space.names) - 1}")
    if not np.isfinite(own).all():
        raise ValueError("its actions are not finite")
    return actions
