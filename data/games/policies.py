"""TODO."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from data.games.base import GameVectorEnv

MEAN_HOLD_STEPS = 6  # for which the explore policy holds an action


class UniformPolicy:
    """Any action, anew at every step: the public set's policy."""

    def __init__(self, environment: GameVectorEnv, rng: np.random.Generator):
        self._num_envs, self._rng = environment.num_envs, rng

    def act(self, environment: GameVectorEnv, frames: np.ndarray | None = None) -> np.ndarray:
        """(N,) actions, or (N, names) where they are vectors."""
        space = environment.actions
        if space.discrete:
            return self._rng.integers(0, len(space.names), self._num_envs)
        return space.random(self._rng, self._num_envs)


class ExplorePolicy:
    """Hold an action that acts for a random while, leaning as the game says; half of the whiles follow a fair player
    where the game has one."""

    def __init__(self, environment: GameVectorEnv, rng: np.random.Generator):
        self._rng = rng
        self._weights = environment.explore_weights / environment.explore_weights.sum()
        self._held = environment.actions.unknown(environment.num_envs)
        self._follows = np.zeros(environment.num_envs, bool)
        self._left_steps = np.zeros(environment.num_envs, np.int64)

    def act(self, environment: GameVectorEnv, frames: np.ndarray | None = None) -> np.ndarray:
        """(N,) actions, or (N, names) where they are vectors."""
        new, num_envs = self._left_steps == 0, len(self._held)
        if environment.actions.discrete:
            drawn = self._rng.choice(len(self._weights), num_envs, p=self._weights)
            self._held = np.where(new, drawn, self._held)
        else:
            self._held = np.where(new[:, None], environment.actions.random(self._rng, num_envs), self._held)
        self._left_steps = np.where(new, self._rng.geometric(1 / MEAN_HOLD_STEPS, num_envs), self._left_steps) - 1
        self._follows = np.where(new, self._rng.random(num_envs) < 0.5, self._follows)
        suggested = environment.suggested_actions()
        return self._held if suggested is None else np.where(self._follows, suggested, self._held)


class FunctionPolicy:
    """Somebody's own function of the environment, its frames (N, H, W, 3) and a random generator."""

    def __init__(self, function: Callable, environment: GameVectorEnv, rng: np.random.Generator):
        self._function, self._rng = function, rng

    def act(self, environment: GameVectorEnv, frames: np.ndarray | None = None) -> np.ndarray:
        """(N,) actions, or (N, names) where they are vectors."""
        actions, space = np.asarray(self._function(environment, frames, self._rng)), environment.actions
        shape, kind, num_names = (environment.num_envs,), actions.dtype.kind, len(space.names)
        if space.discrete:
            wanted = f"ids from 0 to {num_names - 1}"
            fitting = kind in "iu" and actions.size and 0 <= actions.min() <= actions.max() < num_names
        else:
            wanted, shape = "finite numbers", (*shape, num_names)
            fitting = kind in "biuf" and np.isfinite(actions).all()
        if actions.shape != shape or not fitting:
            raise ValueError(f"the policy returned {actions.dtype} {actions.shape}: expected {wanted} of shape {shape}")
        return actions if space.discrete else actions.astype(np.float32)


POLICIES = {"uniform": UniformPolicy, "explore": ExplorePolicy}


def make_policy(name: str) -> Callable[[GameVectorEnv, np.random.Generator], Any]:
    """What makes a policy from an environment and a random generator: by name, or of a "module:function".

    Raises:
        ValueError: there is none of that name.
    """
    if name in POLICIES:
        return POLICIES[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"policy is {name!r}: choose {' or '.join(POLICIES)}, or module:function")
    try:
        chosen = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"policy {name!r} cannot be found: {error}") from None
    return lambda environment, rng: FunctionPolicy(chosen, environment, rng)
