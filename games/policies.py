"""Policies that play games for collection: uniform, explore, or a function of your own."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from dreamrun.games.base import GameVectorEnv

MEAN_HOLD_STEPS = 6  # the explore policy holds an action for this many steps on average


class UniformPolicy:
    """Draws a random action at every step, as the policy of the public set does."""

    def __init__(self, environment: GameVectorEnv, rng: np.random.Generator):
        self._num_envs, self._rng = environment.num_envs, rng

    def act(self, environment: GameVectorEnv, frames: np.ndarray | None = None) -> np.ndarray:
        """(N,) ids or (N, names) vectors."""
        space = environment.actions
        if space.discrete:
            return self._rng.integers(0, len(space.names), self._num_envs)
        return space.random(self._rng, self._num_envs)


class ExplorePolicy:
    """Draws random actions that act and holds each for a random number of steps, MEAN_HOLD_STEPS on average.

    The game's `explore_weights` say how often each action is drawn. If the game has `suggested_actions`, they are
    taken in half of the holds instead.
    """

    def __init__(self, environment: GameVectorEnv, rng: np.random.Generator):
        self._rng = rng
        self._weights = environment.explore_weights / environment.explore_weights.sum()
        self._held = environment.actions.unknown(environment.num_envs)
        self._follows_suggestion = np.zeros(environment.num_envs, bool)
        self._steps_left = np.zeros(environment.num_envs, np.int64)

    def act(self, environment: GameVectorEnv, frames: np.ndarray | None = None) -> np.ndarray:
        """(N,) ids or (N, names) vectors."""
        new, num_envs = self._steps_left == 0, len(self._held)
        if environment.actions.discrete:
            drawn = self._rng.choice(len(self._weights), num_envs, p=self._weights)
            self._held = np.where(new, drawn, self._held)
        else:
            self._held = np.where(new[:, None], environment.actions.random(self._rng, num_envs), self._held)
        self._steps_left = np.where(new, self._rng.geometric(1 / MEAN_HOLD_STEPS, num_envs), self._steps_left) - 1
        self._follows_suggestion = np.where(new, self._rng.random(num_envs) < 0.5, self._follows_suggestion)
        suggested = environment.suggested_actions()
        return self._held if suggested is None else np.where(self._follows_suggestion, suggested, self._held)


class FunctionPolicy:
    """A function of your own: (environment, frames (N, H, W, 3), random generator) -> N actions."""

    def __init__(self, function: Callable, environment: GameVectorEnv, rng: np.random.Generator):
        self._function, self._rng = function, rng

    def act(self, environment: GameVectorEnv, frames: np.ndarray | None = None) -> np.ndarray:
        """(N,) ids or (N, names) vectors."""
        actions, space = np.asarray(self._function(environment, frames, self._rng)), environment.actions
        shape, kind, num_names = (environment.num_envs,), actions.dtype.kind, len(space.names)
        if space.discrete:
            expected = f"ids from 0 to {num_names - 1}"
            valid = kind in "iu" and actions.size and 0 <= actions.min() <= actions.max() < num_names
        else:
            expected, shape = "finite numbers", (*shape, num_names)
            valid = kind in "biuf" and np.isfinite(actions).all()
        if actions.shape != shape or not valid:
            raise ValueError(
                f"the policy returned {actions.dtype} {actions.shape}: expected {expected} of shape {shape}"
            )
        return actions if space.discrete else actions.astype(np.float32)


POLICIES = {"uniform": UniformPolicy, "explore": ExplorePolicy}


def make_policy(name: str) -> Callable[[GameVectorEnv, np.random.Generator], Any]:
    """A function (environment, random generator) -> policy.

    Args:
        name: "uniform", "explore", or "module:function" for a `FunctionPolicy`.
    """
    if name in POLICIES:
        return POLICIES[name]
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise ValueError(f"policy is {name!r}: choose {' or '.join(POLICIES)}, or module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"policy {name!r} cannot be found: {error}") from None
    return lambda environment, rng: FunctionPolicy(function, environment, rng)
