"""The action space of a player: a key for every action, and recorded actions as JSON."""

from dataclasses import replace
from typing import Any

import numpy as np

from dreamrun.games.space import ActionSpace, is_known
from dreamrun.model import WorldModel
from dreamrun.play.messages import MAX_KEY_CHARS

# Keys for actions that have none. The first key of a pair moves an axis down, the second up. A mouse's y axis points
# down, so UP comes first.
_ARROW_PAIRS = (("LEFT", "RIGHT"), ("UP", "DOWN"))
_LETTER_PAIRS = ("JL", "IK", "FH", "TG", "12", "34", "56", "78", "90", "ZX", "CV", "BM", "QE", "UO")
MAX_AXIS_VALUE = 10.0  # of an axis that is named with its value; keys give -1 and 1
_SINGLE_KEYS = "1234567890QEZXCVBMUOJLIKFHTG"


def playable_actions(model: WorldModel) -> ActionSpace:
    """The checkpoint's action space, with free keys assigned to effective actions that have none."""
    space = model.game.actions
    if space.unconditional or (space.discrete and space.all_keys):
        return space  # an action without keys is the noop
    keys, taken = list(space.keys), {key.upper() for action_keys in space.keys for key in action_keys}
    pairs = list(map(tuple, _LETTER_PAIRS))
    if not taken & {"LEFT", "RIGHT", "UP", "DOWN"}:
        pairs = [*_ARROW_PAIRS, *pairs]
    for i in (i for i in space.acting if not keys[i]):
        name = space.names[i].upper()
        # When no key of the keyboard is free, the action gets a key of its own name: a button on the page.
        if not space.discrete and space.kinds[i] == "axis":
            named_pair = tuple(f"{name[: MAX_KEY_CHARS - 1]}{sign}" for sign in "-+")
            keys[i] = next((pair for pair in pairs if not taken & {*pair}), named_pair)
        else:
            singles = (name, *_SINGLE_KEYS) if len(name) == 1 else _SINGLE_KEYS
            keys[i] = (next((key for key in singles if key not in taken), name[:MAX_KEY_CHARS]),)
        taken |= {*keys[i]}
    return replace(space, keys=tuple(keys))


def key_labels(space: ActionSpace) -> dict[str, str]:
    """Key -> what it does, as the page shows it."""
    labels = {key.upper(): key.lower() for key in space.all_keys}
    for i in reversed(space.acting):  # reversed: the first action of a key gives the label
        if space.discrete and len(space.keys[i]) != 1:
            continue
        signs = "-+" if space.kinds and space.kinds[i] == "axis" else [""] * len(space.keys[i])
        labels |= {key.upper(): f"{space.names[i]}{sign}" for key, sign in zip(space.keys[i], signs, strict=False)}
    return labels


def step_actions(space: ActionSpace) -> list[str]:
    """Names of the actions that the page offers for single steps, noop first. `parse_action` reads them."""
    if space.discrete:
        others = [action for action in space.acting if action != space.noop]
        return [space.format(action) for action in (space.noop, *others)]
    names = [space.format(space.noop)]
    for i in space.acting:
        names += [f"{space.names[i]}={value}" for value in (-1, 1)] if space.kinds[i] == "axis" else [space.names[i]]
    return names


def parse_action(name: str, space: ActionSpace) -> int | np.ndarray:
    """The recorded action that a name spells, as `ActionSpace.parse` reads it."""
    action = space.parse(name)
    if not np.all(np.abs(action) <= MAX_AXIS_VALUE) and not space.discrete:
        raise ValueError(f"{name!r:.40}: values must lie in -{MAX_AXIS_VALUE:g} to {MAX_AXIS_VALUE:g}")
    return action


def actions_to_json(actions: int | np.ndarray) -> Any:
    """Recorded actions as plain numbers and lists; NaN becomes None (JSON has no NaN)."""
    actions = np.asarray(actions)
    return (actions if actions.dtype.kind == "i" else np.where(np.isnan(actions), None, actions)).tolist()


def actions_from_json(values: Any, space: ActionSpace, max_actions: int) -> np.ndarray:
    """The inverse of `actions_to_json` for a sequence of 1 to `max_actions` actions: ids (T,) or vectors (T, names).

    TypeError and OverflowError, too, say that the values are not actions of the space.
    """
    if not isinstance(values, list) or not 1 <= len(values) <= max_actions:
        raise ValueError(f"the actions are no list of 1 to {max_actions} actions")
    if space.discrete and any(type(value) is not int for value in values):
        raise ValueError("the actions are not whole numbers")
    with np.errstate(over="ignore"):  # a number that is too large becomes infinite and is rejected below
        actions = np.array(values, np.int64 if space.discrete else np.float32)
    expected = (len(values), *space.unknown(0).shape[1:])
    if actions.shape != expected:
        raise ValueError(f"the actions have shape {actions.shape}: expected {expected}")
    known = actions[is_known(actions)]
    if space.discrete and known.size and not 0 <= known.min() <= known.max() < len(space.names):
        raise ValueError(f"the actions are not numbers from 0 to {len(space.names) - 1}")
    if not np.isfinite(known).all():
        raise ValueError("the actions are not finite")
    return actions
