"""A game's actions as a Gymnasium space."""

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamrun.games.space import ActionSpace


def gym_space(space: ActionSpace) -> gymnasium.Space:
    """Discrete for one action at a time, MultiBinary for buttons, Box for axes, and for buttons and axes together.

    In a Box a button runs from 0 to 1, and an axis from -1 to 1.
    """
    if space.discrete:
        return spaces.Discrete(len(space.names))
    is_axis = np.array([kind == "axis" for kind in space.kinds])
    if not is_axis.any():
        return spaces.MultiBinary(len(space.names))
    return spaces.Box(np.where(is_axis, -1, 0).astype(np.float32), np.ones(len(is_axis), np.float32))


def recorded_actions(space: ActionSpace, actions: np.ndarray) -> np.ndarray:
    """N actions of `gym_space` -> recorded actions: ids (N,), or vectors (N, names) with buttons of 0 and 1."""
    actions = np.asarray(actions)
    if space.discrete:
        if actions.ndim != 1 or actions.dtype.kind not in "iu" or not np.isin(actions, range(len(space.names))).all():
            raise ValueError(f"actions are {actions!r:.60}: expected integers from 0 to {len(space.names) - 1}")
        return actions.astype(np.int32)
    if actions.ndim != 2 or actions.shape[1] != len(space.names) or not np.isfinite(actions.astype(float)).all():
        raise ValueError(f"actions are {actions!r:.60}: expected {len(space.names)} finite numbers for each game")
    is_button = np.array([kind == "button" for kind in space.kinds])
    return np.where(is_button, actions > 0.5, actions.clip(-1, 1)).astype(np.float32)
