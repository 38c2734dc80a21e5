"""Does the dream obey? From one real moment, the true futures under several held actions, and the dream under each.

The real game's state is saved and restored, so that nothing but the action differs.

Shapes: S moments, P prompt frames, K actions, T frames, H x W x C pixels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.actions import ActionSpace
from data.games.base import GameVectorEnv
from data.games.policies import ExplorePolicy
from evaluation.statistics import estimate

HORIZONS = (1, 2, 4, 8, 16, 32)  # frames
MAX_ACTIONS = 6
LATEST_MOMENT = 120  # steps played before a game is stopped, at most, unless an episode has just begun


@dataclass(frozen=True)
class Branches:
    """Real moments, and what really follows each of them under each action."""

    prompt: np.ndarray  # uint8 (S, P, H, W, C)
    prompt_actions: np.ndarray  # recorded ones, (S, P) or (S, P, names), each leading into the frame beside it
    actions: np.ndarray  # (K,) or (K, names), each held from the moment on
    futures: np.ndarray  # uint8 (S, K, T, H, W, C)
    lengths: np.ndarray  # int (S, K), frames before the episode ends; those after belong to another

    def under_each(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompts (S K, P, ...), actions (S K, P + T), and numbers (S K,): all dreams of a moment share their noise."""
        num_states, num_actions, num_frames = self.futures.shape[:3]
        held = np.repeat(self.actions[:, None], num_frames, axis=1)[np.tile(np.arange(num_actions), num_states)]
        before = self.prompt_actions.repeat(num_actions, axis=0)
        numbers = np.arange(num_states).repeat(num_actions)
        return self.prompt.repeat(num_actions, axis=0), np.concatenate((before, held), axis=1), numbers


def held_actions(space: ActionSpace) -> np.ndarray:
    """At most six: of ids the acting ones that hold the fewest keys; else standing still, each button that acts alone,
    and each axis pushed up and down. (K,) or (K, names)."""
    if not space.discrete:
        signs = [(i, sign) for i in space.acting for sign in ((1, -1) if space.kinds[i] == "axis" else (1,))]
        actions = np.tile(space.noop, (1 + len(signs), 1))
        for action, (i, sign) in zip(actions[1:], signs, strict=True):
            action[i] = sign
        return actions[:MAX_ACTIONS]
    return np.array(sorted(space.acting, key=lambda action: (len(space.keys[action]), action))[:MAX_ACTIONS])


def branch(environment: GameVectorEnv, num_prompt: int, num_frames: int, seed: int) -> Branches:
    """Play every game to a random moment, drawn by `seed`, and from there on under each action.

    Raises:
        NotImplementedError: the state of this game cannot be saved.
    """
    prompt, prompt_actions, states = _moments(environment, num_prompt, np.random.default_rng(seed))
    actions = held_actions(environment.actions)
    shape = (environment.num_envs, len(actions), num_frames)
    futures = np.empty((*shape, *prompt.shape[2:]), np.uint8)
    lengths = np.zeros(shape[:2], int)
    for k in range(len(actions)):
        held = np.repeat(actions[k : k + 1], environment.num_envs, axis=0)
        assert np.array_equal(environment.set_state(states), prompt[:, -1])
        going_on = np.ones(environment.num_envs, bool)
        for t in range(num_frames):
            futures[:, k, t], _, terminations, truncations, _ = environment.step(held)
            going_on &= ~(terminations | truncations)
            lengths[:, k] += going_on
    return Branches(prompt, prompt_actions, actions, futures, lengths)


def _moments(environment: GameVectorEnv, num_prompt: int, rng: np.random.Generator) -> tuple:
    """Prompts, the actions that led into their frames, and the states at their ends."""
    num_envs, space, policy = environment.num_envs, environment.actions, ExplorePolicy(environment, rng)
    moments = rng.integers(num_prompt - 1, LATEST_MOMENT, num_envs)
    states: list[bytes | None] = [None] * num_envs
    frames = environment.reset()[0]
    prompt = np.empty((num_envs, num_prompt, *frames.shape[1:]), np.uint8)
    prompt_actions = space.unknown(num_envs, num_prompt)
    recent_frames, recent_actions = deque([frames], num_prompt), deque([space.unknown(num_envs)], num_prompt)
    age, step = np.zeros(num_envs, int), 0  # steps since the episode began
    while None in states:
        due = [game for game in range(num_envs) if states[game] is None and step >= moments[game]]
        due = [game for game in due if age[game] >= num_prompt - 1]
        if due:
            now = environment.get_state()
            for game in due:
                states[game] = now[game]
                prompt[game] = [frames[game] for frames in recent_frames]
                prompt_actions[game] = [actions[game] for actions in recent_actions]
        actions = policy.act(environment)
        frames, _, terminations, truncations, _ = environment.step(actions)
        ended = terminations | truncations
        age, step = np.where(ended, 0, age + 1), step + 1
        recent_frames.append(frames)
        leading = space.unknown(num_envs)
        leading[~ended] = actions[~ended]
        recent_actions.append(leading)
    return prompt, prompt_actions, states


def which_alike(frames: np.ndarray) -> np.ndarray:
    """uint8 (K, ...) -> int (K,): numbers from 0, the same for frames that are the same."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(frame.tobytes(), len(numbers)) for frame in frames])


def controllability_by_state(branches: Branches, dreams: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """How far the dreams of each moment obey, at the frame `horizon` after it.

    Futures whose frames are the same there count as one, and a moment counts if at least two are left. A dream obeys
    if its frame is nearer, in squared error, to the future of its own action than to every other; a tie is
    no success. A model that is blind to actions comes nearest to the same future under all of them: it can be right
    for one future at most, which is chance.

    Args:
        dreams: uint8 (S, K, T, H, W, C), shaped as the futures.

    Returns:
        The share of distinct futures obeyed (S,), and chance, 1 / their number; NaN for moments that do not count.
    """
    obeyed, chance = np.full((2, len(dreams)), np.nan)
    for state in range(len(dreams)):
        alive = np.flatnonzero(branches.lengths[state] >= horizon)
        if not len(alive):
            continue
        frames = branches.futures[state, alive, horizon - 1].reshape(len(alive), -1)
        future_of = which_alike(frames)
        distinct = frames[[list(future_of).index(future) for future in range(1 + max(future_of))]]
        if len(distinct) < 2:
            continue
        dreamt = dreams[state, alive, horizon - 1].reshape(len(alive), 1, -1).astype(np.int64)
        errors = np.square(dreamt - distinct[None]).sum(-1)  # (alive, distinct), whole numbers: ties are exact
        is_own = future_of[:, None] == np.arange(len(distinct))
        obeys = errors[is_own] < np.where(is_own, np.iinfo(errors.dtype).max, errors).min(1)
        obeyed[state] = np.mean([obeys[future_of == future].mean() for future in range(len(distinct))])
        chance[state] = 1 / len(distinct)
    return obeyed, chance


def controllability(
    branches: Branches, dreams: np.ndarray, horizons: tuple[int, ...] = HORIZONS
) -> list[dict[str, Any]]:
    """Controllability and chance by horizon, and their difference by moment, whose interval is narrower."""
    table = []
    for horizon in (h for h in horizons if h <= branches.futures.shape[2]):
        obeyed, chance = controllability_by_state(branches, dreams, horizon)
        figures = {"controllability": obeyed, "chance": chance, "above_chance": obeyed - chance}
        table.append({"frame": horizon, **{name: estimate(figure) for name, figure in figures.items()}})
    return table
