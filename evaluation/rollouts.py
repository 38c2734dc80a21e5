"""What is judged: anything that goes on from a prompt under given actions.

Shapes: S dreams, P prompt frames, T frames in all, H x W x C pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from data.actions import ActionSpace
from evaluation.result_cache import ResultCache
from model.dit import WorldModel
from model.sampler import Sampler
from training.rollout import rollout


class RolloutModel(Protocol):
    """A world model, or anything that stands in for one."""

    def __call__(self, prompt: np.ndarray, actions: np.ndarray, numbers: np.ndarray, progress: str = "") -> np.ndarray:
        """Go on.

        Args:
            prompt: uint8 (S, P, H, W, C).
            actions: recorded ones, (S, T) or (S, T, names), each leading into the frame beside it, prompt included.
            numbers: int (S,); what is random in a dream follows from its number.
            progress: what a progress bar is called.

        Returns:
            uint8 (S, T - P, H, W, C).
        """


@dataclass(frozen=True, order=True)
class SamplerSettings:
    """How a dream's frames are denoised, as `Sampler` takes it."""

    num_steps: int
    guidance: float
    context_noise: float

    def __str__(self) -> str:
        """For people."""
        return f"{self.num_steps} steps, guidance {self.guidance:g}, noise {self.context_noise:g}"

    def sampler(self, model: WorldModel) -> Sampler:
        """One that does so."""
        return Sampler(model, self.num_steps, self.context_noise, guidance=self.guidance)


@dataclass(frozen=True)
class WorldModelRollout:
    """A world model's dreams."""

    model: WorldModel  # as from `for_dreaming`
    space: ActionSpace
    denoising: SamplerSettings
    seed: int

    def __call__(self, prompt: np.ndarray, actions: np.ndarray, numbers: np.ndarray, progress: str = "") -> np.ndarray:
        sampler = self.denoising.sampler(self.model)
        seeds = [self.seed + int(number) for number in numbers]
        num_prompt = prompt.shape[1]
        return rollout(sampler, prompt, actions, self.space, num_prompt, progress, seeds)[:, num_prompt:]


def rollout_in_batches(
    dreamer: RolloutModel,
    prompt: np.ndarray,
    actions: np.ndarray,
    numbers: np.ndarray,
    batch_size: int,
    kept: ResultCache,
    name: str,
) -> Iterator[np.ndarray]:
    """Dreams, so many at a time, each part kept once it is done: uint8 (at most batch_size, T - P, H, W, C)."""
    starts = range(0, len(prompt), batch_size)
    for part, start in enumerate(starts, start=1):
        own, label = slice(start, start + batch_size), f"{name}, {part} of {len(starts)}"
        yield kept.array(f"{name} {part}", partial(dreamer, prompt[own], actions[own], numbers[own], label))
