"""Policies that play games for collection: uniform, explore, or a function of your own.

Each is made from a game and a random generator, and is then a function: frames (N, H, W, C) -> N recorded actions, ids
(N,) or vectors (N, names).
"""

import importlib
from collections.abc import Callable
from functools import partial

import numpy as np

from dreamrun.games.base import GameVectorEnv

MEAN_HOLD_STEPS = 6  # the explore policy holds an action for this many steps on average
Policy = Callable[[np.ndarray], np.ndarray]


def uniform(environment: GameVectorEnv, rng: np.random.Generator) -> Policy:
    """Draws a random action at every step, as the policy of the public set does."""
    space, num_envs = environment.actions, environment.num_envs
    if space.discrete:
        return lambda frames: rng.integers(0, len(space.names), num_envs)
    return lambda frames: space.random(rng, num_envs)


def explore(environment: GameVectorEnv, rng: np.random.Generator) -> Policy:
    """Draws random actions that act and holds each for a random number of steps, MEAN_HOLD_STEPS on average.

    The game's `explore_weights` say how often each action is drawn. If the game has `suggested_actions`, they are
    taken in half of the holds instead.
    """
    space, num_envs = environment.actions, environment.num_envs
    weights = environment.explore_weights / environment.explore_weights.sum()
    held = space.unknown(num_envs)
    follows_suggestion, steps_left = np.zeros(num_envs, bool), np.zeros(num_envs, np.int64)

    def act(frames: np.ndarray) -> np.ndarray:
        nonlocal held, follows_suggestion, steps_left
        new = steps_left == 0
        if space.discrete:
            held = np.where(new, rng.choice(len(weights), num_envs, p=weights), held)
        else:
            held = np.where(new[:, None], space.random(rng, num_envs), held)
        steps_left = np.where(new, rng.geometric(1 / MEAN_HOLD_STEPS, num_envs), steps_left) - 1
        follows_suggestion = np.where(new, rng.random(num_envs) < 0.5, follows_suggestion)
        suggested = environment.suggested_actions()
        followed = follows_suggestion if space.discrete else follows_suggestion[:, None]
        return held if suggested is None else np.where(followed, suggested, held)

    return act


def checked(function: Callable, environment: GameVectorEnv, rng: np.random.Generator) -> Policy:
    """A function of your own: (environment, frames, random generator) -> N actions, which are checked."""
    space, num_envs = environment.actions, environment.num_envs

    def act(frames: np.ndarray) -> np.ndarray:
        actions = np.asarray(function(environment, frames, rng))
        shape, kind, num_names = (num_envs,), actions.dtype.kind, len(space.names)
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

    return act


POLICIES = {"uniform": uniform, "explore": explore}


def make_policy(name: str) -> Callable[[GameVectorEnv, np.random.Generator], Policy]:
    """What makes the policy "uniform", "explore" or "module:function" from a game and a random generator."""
    if name in POLICIES:
        return POLICIES[name]
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise ValueError(f"policy is {name!r}: choose {' or '.join(POLICIES)}, or module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"policy {name!r} cannot be found: {error}") from None
    return partial(checked, function)
