"""Rollouts of a world model, or of anything that stands in for one, in batches that are cached.

Shapes: S rollouts, P prompt frames, T frames in all, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from dreamrun.data.pixels import to_float, to_uint8
from dreamrun.evaluation.result_cache import ResultCache
from dreamrun.games.space import ActionSpace
from dreamrun.model.dit import WorldModel
from dreamrun.model.rollout import rollout
from dreamrun.model.sampler import Sampler

if TYPE_CHECKING:
    from dreamrun.export.onnx_sampler import OnnxSampler


class RolloutModel(Protocol):
    """A world model, or anything that stands in for one."""

    def __call__(
        self, prompt: np.ndarray, actions: np.ndarray, rollout_ids: np.ndarray, progress: str = ""
    ) -> np.ndarray:
        """Continue the prompts under the given actions.

        Args:
            prompt: uint8 (S, P, H, W, C).
            actions: recorded actions, (S, T) or (S, T, names). `actions[:, t]` leads into frame t, prompt included.
            rollout_ids: int (S,). The random numbers of a rollout depend on its id only.
            progress: label of the progress bar.

        Returns:
            The generated frames, uint8 (S, T - P, H, W, C).
        """


@dataclass(frozen=True, order=True)
class SamplerSettings:
    """How the frames of a rollout are denoised: arguments of `Sampler`."""

    num_steps: int
    guidance: float
    context_noise: float

    def __str__(self) -> str:
        return f"{self.num_steps} steps, guidance {self.guidance:g}, noise {self.context_noise:g}"

    def make_sampler(self, model: WorldModel) -> Sampler:
        """A sampler of `model` with these settings."""
        return Sampler(model, self.num_steps, self.context_noise, guidance=self.guidance)


@dataclass(frozen=True)
class WorldModelRollout:
    """A `RolloutModel` that samples from a world model."""

    model: WorldModel  # from `prepare_for_inference`
    space: ActionSpace
    settings: SamplerSettings
    seed: int  # rollout i draws its noise from seed + i
    onnx_file: bytes | None = None  # the model as `model.onnx.export_onnx` writes it, which is used in its place

    def __call__(
        self, prompt: np.ndarray, actions: np.ndarray, rollout_ids: np.ndarray, progress: str = ""
    ) -> np.ndarray:
        sampler = self._make_sampler()
        seeds = [self.seed + int(rollout_id) for rollout_id in rollout_ids]
        vectors = torch.from_numpy(self.space.vectors(actions))
        return np.stack([to_uint8(frame) for frame in rollout(sampler, to_float(prompt), vectors, progress, seeds)], 1)

    def _make_sampler(self) -> Sampler | OnnxSampler:
        if self.onnx_file is None:
            return self.settings.make_sampler(self.model)
        from dreamrun.export.onnx_sampler import OnnxSampler  # onnxruntime takes a while to import

        return OnnxSampler(self.onnx_file, self.model, self.settings.num_steps, self.settings.context_noise)


def rollout_in_batches(
    model: RolloutModel,
    prompt: np.ndarray,
    actions: np.ndarray,
    rollout_ids: np.ndarray,
    batch_size: int,
    cache: ResultCache,
    name: str,
) -> Iterator[np.ndarray]:
    """Generate rollouts in cached batches, each uint8 (at most batch_size, T - P, H, W, C)."""
    starts = range(0, len(prompt), batch_size)
    for number, start in enumerate(starts, start=1):
        batch, label = slice(start, start + batch_size), f"{name}, {number} of {len(starts)}"
        generate = partial(model, prompt[batch], actions[batch], rollout_ids[batch], label)
        yield cache.array(f"{name} {number}", generate)
