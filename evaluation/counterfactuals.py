"""Counterfactual futures of the real game: what follows one game state under each of several held actions.

The state of the game is saved and restored, so only the action differs between the futures of a state.

Shapes: S game states, P prompt frames, K actions, T frames, H x W pixels, C channels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from einops import repeat

from dreamrun.games.base import GameVectorEnv
from dreamrun.games.policies import explore

MAX_ACTIONS = 6
MAX_START_STEP = 120  # upper limit of the start step; play goes on until the prompt lies within one episode


@dataclass(frozen=True)
class Counterfactuals:
    """Game states, and the real frames that follow each of them under each action."""

    prompt: np.ndarray  # uint8 (S, P, H, W, C), the frames up to the state
    prompt_actions: np.ndarray  # recorded actions, (S, P) or (S, P, names); [:, p] leads into prompt frame p
    actions: np.ndarray  # (K,) or (K, names), each held from the state on
    futures: np.ndarray  # uint8 (S, K, T, H, W, C)
    lengths: np.ndarray  # int (S, K), frames before the episode ends; later frames belong to another episode

    def rollout_inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompts (S K, P, ...), actions (S K, P + T, ...) and rollout ids (S K,) of `EvaluationContext.generate`.

        All rollouts of a state have the same id, and so the same noise.
        """
        num_states, num_actions, num_frames = self.futures.shape[:3]
        prompt = repeat(self.prompt, "s ... -> (s k) ...", k=num_actions)
        prompt_actions = repeat(self.prompt_actions, "s ... -> (s k) ...", k=num_actions)
        held_actions = repeat(self.actions, "k ... -> (s k) t ...", s=num_states, t=num_frames)
        rollout_ids = repeat(np.arange(num_states), "s -> (s k)", k=num_actions)
        return prompt, np.concatenate((prompt_actions, held_actions), axis=1), rollout_ids

    def first(self, num_states: int, num_frames: int) -> Counterfactuals:
        """The first states, and the first frames of their futures."""
        return replace(
            self,
            prompt=self.prompt[:num_states],
            prompt_actions=self.prompt_actions[:num_states],
            futures=self.futures[:num_states, :, :num_frames],
            lengths=np.minimum(self.lengths[:num_states], num_frames),
        )


def collect_counterfactuals(environment: GameVectorEnv, num_prompt: int, num_frames: int, seed: int) -> Counterfactuals:
    """Play every game up to a random state, drawn by `seed`, and from there under each action."""
    prompt, prompt_actions, states = _play_to_states(environment, num_prompt, np.random.default_rng(seed))
    actions = environment.actions.held_actions()[:MAX_ACTIONS]
    shape = (environment.num_envs, len(actions), num_frames)
    futures = np.empty((*shape, *prompt.shape[2:]), np.uint8)
    lengths = np.zeros(shape[:2], int)
    for k, action in enumerate(actions):
        held = np.repeat(action[None], environment.num_envs, axis=0)
        assert np.array_equal(environment.set_state(states), prompt[:, -1])
        running = np.ones(environment.num_envs, bool)
        for t in range(num_frames):
            futures[:, k, t], _, terminations, truncations, _ = environment.step(held)
            running &= ~(terminations | truncations)
            lengths[:, k] += running
    return Counterfactuals(prompt, prompt_actions, actions, futures, lengths)


def _play_to_states(
    environment: GameVectorEnv, num_prompt: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """Prompts, the actions that lead into their frames, and the saved game state at the end of each prompt."""
    num_envs, space, policy = environment.num_envs, environment.actions, explore(environment, rng)
    start_steps = rng.integers(num_prompt - 1, MAX_START_STEP, num_envs)
    states: list[bytes | None] = [None] * num_envs
    frames = environment.reset()[0]
    prompt = np.empty((num_envs, num_prompt, *frames.shape[1:]), np.uint8)
    prompt_actions = space.unknown(num_envs, num_prompt)
    recent_frames, recent_actions = deque([frames], num_prompt), deque([space.unknown(num_envs)], num_prompt)
    episode_steps, step = np.zeros(num_envs, int), 0
    while None in states:
        due = [
            game
            for game in range(num_envs)
            if states[game] is None and step >= start_steps[game] and episode_steps[game] >= num_prompt - 1
        ]
        if due:
            current_states = environment.get_state()
            for game in due:
                states[game] = current_states[game]
                prompt[game] = [frames[game] for frames in recent_frames]
                prompt_actions[game] = [actions[game] for actions in recent_actions]
        actions = policy(frames)
        frames, _, terminations, truncations, _ = environment.step(actions)
        ended = terminations | truncations
        episode_steps, step = np.where(ended, 0, episode_steps + 1), step + 1
        recent_frames.append(frames)
        leading_actions = space.unknown(num_envs)
        leading_actions[~ended] = actions[~ended]
        recent_actions.append(leading_actions)
    return prompt, prompt_actions, states


def identical_groups(frames: np.ndarray) -> np.ndarray:
    """uint8 (K, ...) -> int (K,): a group number from 0 for each frame; identical frames share a number."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(frame.tobytes(), len(numbers)) for frame in frames])
