"""What a clip is trained on: each task is a row of TASKS, which says how clips are corrupted and how many of them.

A new task is a function of (seeds, noise, options) that returns a `Corruption`, and a row; its share may be an option
of `TrainConfig`. Nothing else knows which tasks there are. A task can hide frames and actions but not change them.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dreamrun.data.batch import Batch, to_levels
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import autocast, prepare_for_inference
from dreamrun.model.loss import (
    MAX_CONTEXT_NOISE_LEVEL,
    UNIFORM,
    Corruption,
    LevelDistribution,
    Noise,
    causal_corruption,
    diffusion_loss,
)
from dreamrun.model.sampler import Sampler
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

SCHEDULED_SAMPLING_PASSES = 3
MAX_PROMPT_FRAMES = 8  # self-forcing: true frames at the start of a clip, at least one


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
    keeps_action = (noise.clip_uniform >= options.action_dropout)[:, None].expand_as(noise.level_uniform)
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


def generated_context(
    model: WorldModel, ema: WorldModel, clips: Batch, noise: Noise, corruption: Corruption, config: ResolvedConfig
) -> Tensor | None:
    """Context frames, shaped as x0, of which some are generated; None: the clips' own frames.

    In a rollout the context consists of generated frames, in training of real frames. This difference makes rollouts
    drift; training on generated context reduces it. The targets stay the true frames, so the network learns the way
    back. Clips with the highest `clip_uniform` get scheduled sampling, so that few clips get both this and action
    dropout, and those below them self-forcing.

    Args:
        corruption: of the clips, whose hidden actions stay hidden.
    """
    share, forced_share = config.scheduled_sampling, config.self_forcing
    if not share and not forced_share:
        return None
    x0, actions, uniform = clips.x0, corruption.hide_actions(clips.actions), noise.clip_uniform
    frames = x0.clone()
    is_forced = (uniform < 1 - share) & (uniform >= 1 - share - forced_share)
    if forced_share and is_forced.any():
        rows = torch.nonzero(is_forced).flatten()
        frames[rows] = _roll_out(ema, x0[rows], actions[rows], clips.seeds[rows.cpu().numpy()], config.bf16)
    if share:
        # An autocast block of its own, because autocast caches weights without gradients in the first one and forgets
        # them at its end.
        with torch.no_grad(), autocast(x0.device, config.bf16):
            _predict_in_parallel(model, x0, actions, noise, replace(corruption, context_frames=frames), config)
    return frames


def _predict_in_parallel(
    model: WorldModel, x0: Tensor, actions: Tensor, noise: Noise, corruption: Corruption, config: ResolvedConfig
) -> None:
    """Scheduled sampling: replace context frames of the chosen clips by the network's own predictions, in place.

    One forward pass predicts all frames of a clip, at other noise levels than in the loss, and rounds them to 8 bits,
    as a rollout does. The next pass takes this result as context: errors build on errors without a frame-by-frame
    rollout (parallel scheduled sampling, arXiv 1906.04331). A third of the chosen clips gets one pass, a third two, a
    third three.
    """
    frames, text, share = corruption.context_frames, corruption.text, config.scheduled_sampling
    assert frames is not None
    for number in range(SCHEDULED_SAMPLING_PASSES):
        chosen = noise.clip_uniform >= 1 - share * (1 - number / SCHEDULED_SAMPLING_PASSES)
        if not chosen.any():
            break
        rotated_uniform = (noise.level_uniform[chosen] + (number + 1) / (SCHEDULED_SAMPLING_PASSES + 1)) % 1
        of_pass = replace(
            causal_corruption(noise.select(chosen), config.level_distribution.levels(rotated_uniform)),
            context_frames=frames[chosen],
            text=None if text is None else text[chosen],
        )
        predicted = diffusion_loss(model, model.config, x0[chosen], actions[chosen], of_pass).x0
        frames[chosen] = to_levels(predicted) / 127.5 - 1


def _roll_out(ema: WorldModel, x0: Tensor, actions: Tensor, seeds: np.ndarray, bf16: bool | None) -> Tensor:
    """Self-forcing: rollouts of the averaged weights from the first frames of clips, under the clips' actions.

    Scheduled sampling has errors like those of a short rollout of single steps. Here they are what the sampler really
    leaves behind, up to a window deep: a lost ball, a blurred wall. The idea is that of Self-Forcing (arXiv
    2506.08009), with the ordinary loss in place of a distribution matching one. A clip's seed draws the number of its
    prompt frames (1 to 8, at most half the clip) and the sampler's noise.

    Returns:
        (B, T, C, H, W), rounded to 8 bits as a rollout is.
    """
    draws = [np.random.default_rng(int(seed)) for seed in seeds]
    max_prompt = max(1, min(MAX_PROMPT_FRAMES, x0.shape[1] // 2))
    prompts = np.array([int(rng.integers(1, max_prompt + 1)) for rng in draws])
    noise_seeds = [int(rng.integers(2**63)) for rng in draws]
    sampler, frames = Sampler(prepare_for_inference(ema, x0.device, bf16)), x0.clone()
    for length in np.unique(prompts):
        slots = np.flatnonzero(prompts == length).tolist()
        sampler.reset(x0[slots, :length], actions[slots, :length], slots, [noise_seeds[slot] for slot in slots])
    for t in range(int(prompts.min()), x0.shape[1]):
        slots = np.flatnonzero(prompts <= t).tolist()
        frames[slots, t] = to_levels(sampler.step(actions[slots, t], slots)) / 127.5 - 1
    return frames
