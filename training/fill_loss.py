"""The loss of filling in: some frames of a clip are known, and the others are denoised together.

Every frame attends to every other one, so that missing frames may lie before, between or after the known ones. The same
network plays with the causal mask; nothing but the mask tells it which of the two it is asked to do.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from dreamrun.games.splitmix import splitmix64_hash
from dreamrun.model.config import ModelConfig
from dreamrun.training.loss import MAX_CONTEXT_NOISE_LEVEL, Noise, NoiseLevels, diffusion_loss, to_noise_levels

# How often the known frames are at the start, at the end, at both ends, anywhere, or missing altogether. What play does
# not teach comes most often.
PATTERNS = {"prefix": 0.15, "suffix": 0.25, "ends": 0.3, "subset": 0.2, "none": 0.1}
# Shares of clips whose actions are all hidden, and of clips that have those of the known frames alone: whoever edits a
# recording rarely knows the actions between its parts, and a video has none.
ALL_HIDDEN, UNKNOWN_HIDDEN = 0.15, 0.2
_STREAM = 0xF111  # of the random numbers here, apart from those of the noise
# Share of clips whose frames are trained each for itself, without context and actions, if text is learnt. A frame that
# is dreamt from text alone has no context, and of the other clips only the first frame has none. (Training on videos
# and pictures together: arXiv 2204.03458.)
IMAGE_SHARE = 0.2
_IMAGE_STREAM = np.uint64(0x1A6E)


@dataclass(frozen=True)
class FillTask:
    """What is known of each clip, drawn from its seed alone."""

    known: Tensor  # (B, T) bool; at least one frame of a clip is unknown
    known_levels: Tensor  # (B, T) noise levels of the known frames, as of the context in a rollout
    level_uniform: Tensor  # (B,) in [0, 1): `to_noise_levels` makes the level of the unknown frames of it
    has_action: Tensor  # (B, T) bool, whether the network gets the action that leads into a frame


def choose_fill_clips(seeds: np.ndarray, share: float) -> np.ndarray:
    """Which clips are trained on filling in, bool (B,). Each clip's choice depends on its own seed, uint64 (B,)."""
    return np.array([_generator(seed).random() < share for seed in seeds.tolist()], bool)


def choose_image_clips(seeds: np.ndarray) -> np.ndarray:
    """Which clips are trained frame by frame, bool (B,). Each clip's choice depends on its own seed, uint64 (B,)."""
    return splitmix64_hash(seeds ^ _IMAGE_STREAM) < IMAGE_SHARE * 2.0**64


def draw_fill_task(seeds: np.ndarray, num_frames: int, device: torch.device) -> FillTask:
    """Draw what is known of clips with these seeds, uint64 (B,)."""
    known, uniform = np.zeros((len(seeds), num_frames), bool), np.zeros((len(seeds), num_frames + 2), np.float32)
    for clip, seed in enumerate(seeds.tolist()):
        rng = _generator(seed)
        rng.random()  # of `choose_fill_clips`
        known[clip] = draw_known_frames(rng, num_frames)
        uniform[clip] = rng.random(num_frames + 2, np.float32)
    known_on_device, numbers = (torch.from_numpy(array).to(device, non_blocking=True) for array in (known, uniform))
    choice = numbers[:, 1:2]
    has_action = (choice >= ALL_HIDDEN) & (known_on_device | (choice >= ALL_HIDDEN + UNKNOWN_HIDDEN))
    return FillTask(known_on_device, MAX_CONTEXT_NOISE_LEVEL * numbers[:, 2:], numbers[:, 0], has_action)


def draw_known_frames(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """A random pattern of known frames, bool (T,), of the kinds in PATTERNS. At least one frame is unknown."""
    kind = rng.choice(list(PATTERNS), p=list(PATTERNS.values()))
    num_unknown = int(rng.integers(1, num_frames + 1))
    start = int(rng.integers(num_frames - num_unknown + 1))
    starts = {"prefix": num_frames - num_unknown, "suffix": 0, "ends": start}
    known = np.ones(num_frames, bool)
    if kind in starts:
        known[starts[kind] : starts[kind] + num_unknown] = False
    elif kind == "subset":
        known[rng.permutation(num_frames)[:num_unknown]] = False
    else:
        known[:] = False
    return known


def fill_loss(
    model: nn.Module,
    config: ModelConfig,
    x0: Tensor,
    actions: Tensor,
    noise: Noise,
    task: FillTask,
    kind: NoiseLevels,
    text: Tensor | None = None,
) -> Tensor:
    """Mean loss of the unknown frames of each clip, (B,); the loss of a frame is that of `diffusion_loss`.

    Args:
        model: a `WorldModel`, possibly compiled or wrapped in DDP.
        x0: (B, T, C, H, W) clean frames in [-1, 1].
        actions: (B, T, A).
        noise: its eps are used, and its levels are not: the unknown frames of a clip share one level.
        kind: distribution of this level.
        text: (B, L) uint8, words for each clip; None: the network is told none.
    """
    unknown_level = to_noise_levels(task.level_uniform, kind)[:, None]
    levels = torch.where(task.known, task.known_levels, unknown_level)
    fill_noise = replace(noise, levels=levels, context_levels=None, context_eps=None)
    actions = actions * task.has_action[..., None]
    losses, _ = diffusion_loss(model, config, x0, actions, fill_noise, temporal_mask=None, text=text)
    unknown = ~task.known
    return (losses * unknown).sum(1) / unknown.sum(1)


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng((_STREAM, seed))
