"""What a clip is trained on: each task is a row of TASKS, which says how clips are corrupted and how many of them.

A new task is a function of (seeds, noise, options) that returns a `Corruption`, and a row; its share may be an option
of `TrainConfig`. Nothing else knows which tasks there are. A task can hide frames and actions but not change them.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dreamrun.model.loss import (
    MAX_CONTEXT_NOISE_LEVEL,
    UNIFORM,
    Corruption,
    LevelDistribution,
    Noise,
    causal_corruption,
)
from dreamrun.training.train_config import ResolvedConfig

# Filling in: how often the known frames are at the start, at the end, at both ends, anywhere, or missing altogether.
# What play does not teach comes most often.
PATTERNS = {"prefix": 0.15, "suffix": 0.25, "ends": 0.3, "subset": 0.2, "none": 0.1}
# Filling in: shares of clips whose actions are all hidden, and of clips that have those of the known frames alone:
# whoever edits a recording rarely knows the actions between its parts, and a video has none.
ALL_HIDDEN, UNKNOWN_HIDDEN = 0.15, 0.2
FILL_STREAM = 0xF111  # of the random numbers of filling in, apart from those of the noise
# Share of the clips that are not for filling in whose frames are trained each for itself, without context and actions,
# if the network learns words. A frame that is generated from words alone has no context, and of the other clips only
# the first frame has none. (Training on videos and pictures together: arXiv 2204.03458.)
IMAGE_SHARE = 0.2


@dataclass(frozen=True)
class TaskOptions:
    """What a run chooses for all tasks; by default as in validation."""

    distribution: LevelDistribution = UNIFORM  # of the noise levels
    action_dropout: float = 0.0  # share of clips of play whose actions are all hidden


@dataclass(frozen=True)
class Task:
    """One way to train on clips."""

    corrupt: Callable[[np.ndarray, Noise, TaskOptions], Corruption]  # from seeds, uint64 (B,), and their noise
    share: Callable[[ResolvedConfig], float]  # of the clips of a batch; of the first task: of those that others leave
    has_context: bool = False  # the context may be clean (teacher forcing) and generated (scheduled sampling, ...)
    metric: str = ""  # name of its validation loss in the log; "": none, or one of its own


def play(seeds: np.ndarray, noise: Noise, options: TaskOptions) -> Corruption:
    """Predict each frame from those before it."""
    keeps_action = (noise.clip_uniform >= options.action_dropout).to(noise.eps.device, non_blocking=True)
    keeps_action = keeps_action[:, None].expand_as(noise.level_uniform)
    return causal_corruption(noise, options.distribution.levels(noise.level_uniform), keeps_action)


def fill(seeds: np.ndarray, noise: Noise, options: TaskOptions) -> Corruption:
    """Fill in: some frames are known, and the others, which share one noise level, are denoised together.

    Every frame attends to every other one, so that missing frames may lie before, between or after the known ones. The
    same network plays with the causal mask; nothing but the mask tells it which of the two it is asked to do.
    """
    device, (batch, num_frames) = noise.eps.device, noise.level_uniform.shape
    known, uniform = np.zeros((batch, num_frames), bool), np.zeros((batch, num_frames + 2), np.float32)
    for clip, seed in enumerate(seeds.tolist()):
        rng = np.random.default_rng((FILL_STREAM, seed))
        rng.random()  # once chose the clips to fill in; without it val/fill_loss would not compare with earlier runs
        known[clip] = draw_known_frames(rng, num_frames)
        uniform[clip] = rng.random(num_frames + 2, np.float32)
    is_known, numbers = (torch.from_numpy(array).to(device, non_blocking=True) for array in (known, uniform))
    level, choice, known_uniform = numbers.split((1, 1, num_frames), dim=1)
    levels = torch.where(is_known, MAX_CONTEXT_NOISE_LEVEL * known_uniform, options.distribution.levels(level))
    keeps_action = (choice >= ALL_HIDDEN) & (is_known | (choice >= ALL_HIDDEN + UNKNOWN_HIDDEN))
    return Corruption(levels, noise.eps, mask=None, keeps_action=keeps_action, is_target=~is_known)


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


def image(seeds: np.ndarray, noise: Noise, options: TaskOptions) -> Corruption:
    """Predict each frame from words alone: it attends to no other frame."""
    levels = options.distribution.levels(noise.level_uniform)
    alone = torch.eye(levels.shape[1], dtype=torch.bool, device=levels.device)
    return Corruption(levels, noise.eps, mask=alone, keeps_action=torch.zeros_like(levels, dtype=torch.bool))


def _image_share(config: ResolvedConfig) -> float:
    return IMAGE_SHARE * (1 - config.fill_share) if config.words else 0.0


TASKS = (
    Task(play, lambda _: 1.0, has_context=True),
    Task(fill, lambda config: config.fill_share, metric="val/fill_loss"),
    Task(image, _image_share),
)


def assign_tasks(config: ResolvedConfig) -> np.ndarray:
    """The number in TASKS of each clip of a batch over all ranks, int (batch_size,).

    Every batch has the same number of clips of each task, as near to its share as whole clips allow, evenly spread. So
    shapes are the same in all steps.
    """
    shares = np.array([task.share(config) for task in TASKS])
    shares[0] *= 1 - shares[1:].sum()
    exact = shares * config.batch_size
    counts = np.floor(exact + 1e-9).astype(int)
    missing = config.batch_size - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
    return np.repeat(np.arange(len(TASKS)), counts)[np.argsort(places, kind="stable")]
