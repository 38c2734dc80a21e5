"""Many dreams on one model: those that tick together share a batch.

Shapes: T frames, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from data.actions import ActionSpace
from data.pixels import to_float, to_uint8
from model import ModelConfig, Sampler, WorldModel
from play.actions import playable_actions
from play.real_game import RealGame

CONTEXT_NOISE = 0.02  # noise level of the frames that are looked back at


@dataclass(frozen=True)
class Prompt:
    """What a dream begins from."""

    frames: np.ndarray  # uint8 (T, H, W, C), as many as the window has room for, or fewer
    actions: np.ndarray  # recorded ones, (T,) or (T, names), each leading into the frame beside it
    record_id: int | None = None  # the record they are from; None: an image of the player's own
    moment: int | None = None  # the last one's place in that record


@dataclass(frozen=True)
class RolloutSettings:
    """How frames are denoised. Dreams of the same settings share a sampler, and its batches."""

    num_steps: int
    guidance: float = 1.0


@dataclass
class Rollout:
    """One player's dream, from its prompt on."""

    prompt: Prompt
    seed: int
    settings: RolloutSettings
    slot: int  # in its settings' sampler
    weights: str  # hash of those that dream it
    real: RealGame | None = None  # steps along with the same keys
    actions: list[int | np.ndarray] = field(default_factory=list)  # recorded ones, since the prompt
    changed_weights: bool = False  # others have been taken over on the way


@dataclass(frozen=True)
class Tick:
    """What one tick brought one dream."""

    place: int  # of the frame among those dreamt since the prompt, from 0
    action: int | np.ndarray
    frame: np.ndarray  # uint8 (H, W, C), dreamt
    real_frame: np.ndarray | None = None  # uint8 (H, W, C), of the real game if it runs along
    real_ended: bool = False  # whose episode has ended since the prompt, and begun anew


class RolloutPool:
    """All dreams there are. Not to be called from two threads at once; `Sampler` does the work.

    Args:
        model: ready to dream, as from `for_dreaming`.
        weights: hash of its weights, as from `training.checkpoint.hash_weights`.
    """

    def __init__(self, model: WorldModel, weights: str):
        self.config, self.game, self.space = model.config, model.game, playable_actions(model)
        self._model, self._weights = model, weights
        self._samplers: dict[RolloutSettings, Sampler] = {}
        self._dreams: dict[RolloutSettings, dict[int, Rollout]] = {}  # by slot

    def start(self, prompt: Prompt, seed: int, settings: RolloutSettings) -> Rollout:
        """Begin a dream, in the lowest free slot.

        Raises:
            ValueError: settings out of their range, or a prompt of other sizes.
        """
        if settings not in self._samplers:
            guidance = settings.guidance
            self._samplers[settings] = Sampler(self._model, settings.num_steps, CONTEXT_NOISE, guidance=guidance)
            self._dreams[settings] = {}
        dreams = self._dreams[settings]
        dream = Rollout(prompt, seed, settings, _lowest_free(dreams), self._weights)
        dreams[dream.slot] = dream
        try:
            self._samplers[settings].reset(*as_tensors(prompt, self.space), slots=[dream.slot], seeds=[seed])
        except ValueError:
            self.end(dream)
            raise
        return dream

    def step(self, jobs: Sequence[tuple[Rollout, int | np.ndarray]]) -> list[Tick]:
        """One frame further: dreams and the recorded actions they are given, in any order; so are the results."""
        frames: dict[int, np.ndarray] = {}  # by id of the dream
        for settings, sampler in self._samplers.items():
            ours = sorted((job for job in jobs if job[0].settings == settings), key=lambda job: job[0].slot)
            if ours:
                vectors = torch.from_numpy(self.space.vectors(np.array([action for _, action in ours])))
                dreamt = to_uint8(sampler.step(vectors, [dream.slot for dream, _ in ours]))
                frames |= {id(dream): frame for (dream, _), frame in zip(ours, dreamt, strict=True)}
        ticks = []
        for dream, action in jobs:
            dream.actions.append(action)
            real = dream.real  # which the event loop may take away at any time
            beside = (real.catch_up(dream.actions), real.ended) if real else ()
            ticks.append(Tick(len(dream.actions) - 1, action, frames[id(dream)], *beside))
        return ticks

    def end(self, dream: Rollout) -> None:
        """Forget a dream; a sampler that nobody needs goes with it."""
        dreams = self._dreams.get(dream.settings, {})
        if dreams.get(dream.slot) is not dream:
            return
        del dreams[dream.slot]
        if dreams:
            self._samplers[dream.settings].free([dream.slot])
        else:
            del self._samplers[dream.settings], self._dreams[dream.settings]

    def swap_weights(self, model: WorldModel, weights: str) -> None:
        """Dream on with other weights of the same sizes.

        Raises:
            ValueError: they cannot be taken over; all is as before then.
        """
        if (model.config.frame_shape, model.config.num_actions, model.config.window_frames) != (
            self.config.frame_shape, self.config.num_actions, self.config.window_frames,
        ):  # fmt: skip
            raise ValueError("they are of other sizes")
        for settings, sampler in self._samplers.items():
            sampler.rebuild(model)
            for dream in self._dreams[settings].values():
                dream.changed_weights = True
        self._model, self._weights = model, weights

    def __len__(self) -> int:
        return sum(map(len, self._dreams.values()))

    @property
    def bytes_per_rollout(self) -> int:
        """Memory that one more dream takes, its keys and values and its window of frames."""
        config, weight = self.config, self._model.action_embedding.weight
        cached = 2 * config.num_blocks * config.num_patches * config.dim * weight.element_size()
        return config.window_frames * (cached + 4 * int(np.prod(config.frame_shape)))


def as_tensors(prompt: Prompt, space: ActionSpace) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of one, as `Sampler.reset` takes it: frames (1, T, C, H, W) in [-1, 1], actions (1, T, A)."""
    vectors = torch.from_numpy(space.vectors(prompt.actions))
    return to_float(np.array(prompt.frames))[None], vectors[None]


def image_prompt(pixels: bytes, config: ModelConfig, space: ActionSpace) -> Prompt:
    """A single still picture to begin from.

    Args:
        pixels: H * W * C bytes, row by row.

    Raises:
        ValueError: another number of bytes.
    """
    channels, height, width = config.frame_shape
    if len(pixels) != height * width * channels:
        raise ValueError(f"an image of {len(pixels)} bytes: expected {width}x{height} pixels of {channels} bytes")
    frames = np.frombuffer(pixels, np.uint8).reshape(1, height, width, channels)
    return Prompt(frames, space.unknown(1))


def _lowest_free(slots: dict[int, Rollout]) -> int:
    return next(slot for slot in range(len(slots) + 1) if slot not in slots)
