"""Filling in: any frames of a clip are known, and the others are generated together, with all frames in sight.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector, W frames in the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dreamrun.model.checkpoint import check_finite
from dreamrun.model.diffusion import CONTEXT_NOISE, add_noise, alpha_sigma, ddim_step, x0_from_prediction
from dreamrun.model.dit import WorldModel
from dreamrun.model.sampler_inputs import validate_prompt, validate_seed, validate_settings
from dreamrun.model.text import without_text


@dataclass(frozen=True)
class FillWindow:
    """A stretch of a clip that is denoised in one go. All numbers are indices of frames in the clip."""

    start: int  # first frame of the window
    frames: list[int]  # that the network sees, in order: known ones, frames filled in before, and targets
    targets: list[int]  # that are filled in


def fill(
    model: WorldModel,
    frames: Tensor,
    known: Tensor,
    actions: Tensor | None = None,
    num_steps: int | None = None,
    seed: int = 0,
    start_level: float = 1.0,
    guidance: float = 1.0,
) -> Tensor:
    """Generate the unknown frames of clips by DDIM (arXiv 2010.02502) over all of them at once.

    Known frames get a little noise, as the context of a rollout does, and come back as they were. A clip that is longer
    than the window is filled in by overlapping windows: see `plan_windows`.

    Args:
        model: in eval mode, trained to fill in frames.
        frames: (B, T, C, H, W) float in [-1, 1]. Unknown frames matter only if `start_level` is below 1.
        known: (T,) bool, the same for all clips.
        actions: (B, T, A), each leads into its frame; zeros where unknown. None: all unknown.
        num_steps: denoising steps, with noise levels evenly spaced from `start_level` to 0; None: the model's default.
        seed: clip i draws its noise from seed `seed + i`. The noise of a frame does not depend on what is known.
        start_level: noise level from which the unknown frames are denoised. Below 1 they resemble those in `frames`
            (SDEdit, arXiv 2108.01073).
        guidance: classifier-free guidance scale, against hidden actions; doubles the cost unless it is 1.

    Returns:
        (B, T, C, H, W) float32 in [-1, 1].

    Raises:
        ValueError: the model never learnt to fill in frames, nothing is unknown, or an argument does not fit the model
            or is out of its range.
    """
    *_, filled = fill_by_windows(model, frames, known, actions, num_steps, seed, start_level, guidance)
    return filled


@torch.inference_mode()
def fill_by_windows(
    model: WorldModel,
    frames: Tensor,
    known: Tensor,
    actions: Tensor | None = None,
    num_steps: int | None = None,
    seed: int = 0,
    start_level: float = 1.0,
    guidance: float = 1.0,
) -> Iterator[Tensor]:
    """As `fill`, but yields the clips after each window, so that something else can be done in between.

    Only the last result is complete.
    """
    num_steps = model.config.num_steps if num_steps is None else num_steps
    validate_settings(num_steps, guidance)
    check_can_fill(model)
    actions = validate_prompt(frames, actions, model.config)
    if known.dtype != torch.bool or known.shape != frames.shape[1:2]:
        raise ValueError(f"known is {known.dtype} {tuple(known.shape)}: expected a bool for each of the clip's frames")
    if known.all():
        raise ValueError(f"all {len(known)} frames are known: there is nothing to fill in")
    if not 0.0 < start_level <= 1.0:
        raise ValueError(f"start_level is {start_level}: it must lie in (0, 1]")
    frames, actions = frames.to(model.device, torch.float32), actions.to(model.device, torch.float32)
    eps = torch.stack([_noise(frames[clip].shape, seed + clip, model.device) for clip in range(len(frames))])
    levels = torch.linspace(start_level, 0.0, num_steps + 1)
    filled = frames.clone()
    for window in plan_windows(known.tolist(), model.config.window_frames):
        filled[:, window.targets] = _denoise_window(model, window, filled, actions, eps, levels, guidance)
        yield filled


def check_can_fill(model: WorldModel) -> None:
    """Raises ValueError if a model is not able to fill in frames, or if its weights are not finite."""
    if not model.config.can_fill:
        raise ValueError(
            "this checkpoint never learnt to fill in frames: train on from it with "
            "`dreamrun train --init-from CHECKPOINT --fill-share 0.3`"
        )
    check_finite(model)


def plan_windows(known: list[bool], window_frames: int) -> list[FillWindow]:
    """The windows that fill in a clip, in their order. If the clip fits the window, it is the only one.

    In a longer clip the first gap is filled in, then the next one. A gap of up to half a window between known frames is
    filled in at once, in the middle of a window. Other gaps are filled in by an eighth of a window at a time, from the
    end that has known frames, or in turn from both ends until the rest fits. More frames at once would blur: where
    things are becomes less certain with every frame.

    Args:
        known: whether each frame of the clip is known; False at least once.
        window_frames: W.
    """
    num_frames, half, step = len(known), max(1, window_frames // 2), max(1, window_frames // 8)
    if num_frames <= window_frames:
        return [FillWindow(0, list(range(num_frames)), [t for t in range(num_frames) if not known[t]])]
    done, windows = list(known), []
    while gaps := _gaps(done):
        begin, end = gaps[0]
        length, has_left, has_right = end - begin, begin > 0, end < num_frames
        if not has_left and not has_right:
            planned = [(0, 0, window_frames)]  # start of the window, first target, end of the targets
        elif has_left and has_right and length <= half:
            planned = [(min(max(0, (begin + end - window_frames) // 2), num_frames - window_frames), begin, end)]
        else:
            excess = length - half if has_left and has_right else 2 * length
            from_left = min(step, (excess + 1) // 2) if has_left else 0
            from_right = min(step, excess // 2) if has_right else 0
            planned = [
                (max(0, begin + from_left - window_frames), begin, begin + from_left),
                (min(end - from_right, num_frames - window_frames), end - from_right, end),
            ]
        for start, first, last in planned:
            if first < last:
                windows.append(_fill_window(done, start, first, last, window_frames))
                for t in windows[-1].targets:
                    done[t] = True
    return windows


def _fill_window(done: list[bool], start: int, first: int, last: int, window_frames: int) -> FillWindow:
    """The window from `start` on that fills in frames `first` to `last`, and every other gap that ends inside of it."""
    stop = min(start + window_frames, len(done))
    targets = set(range(first, last))
    for begin, end in _gaps(done):
        if (start < begin or begin == start == 0) and (end < stop or end == stop == len(done)):
            targets |= set(range(begin, end))
    return FillWindow(start, [t for t in range(start, stop) if done[t] or t in targets], sorted(targets))


def _gaps(done: list[bool]) -> list[tuple[int, int]]:
    """First index and end of every run of frames that are not done."""
    edges = [t for t, (before, now) in enumerate(pairwise([True, *done, True])) if before != now]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _denoise_window(
    model: WorldModel,
    window: FillWindow,
    frames: Tensor,
    actions: Tensor,
    eps: Tensor,
    levels: Tensor,
    guidance: float,
) -> Tensor:
    """Generate the targets of a window, (B, targets, C, H, W): frames and eps (B, T, C, H, W), actions (B, T, A)."""
    is_target = torch.isin(torch.tensor(window.frames), torch.tensor(window.targets)).to(frames.device)
    positions = torch.tensor(window.frames, device=frames.device) - window.start
    frames, actions, eps = (tensor[:, window.frames] for tensor in (frames, actions, eps))
    schedule, kind = model.config.schedule, model.config.prediction
    context = add_noise(frames, eps, alpha_sigma(torch.tensor(CONTEXT_NOISE), schedule))
    x_u = add_noise(frames, eps, alpha_sigma(levels[0], schedule))
    unconditional = without_text(model) if guidance != 1.0 else model
    for u, u_next in pairwise(levels):
        level = alpha_sigma(u, schedule)
        given = torch.where(is_target[:, None, None, None], x_u, context)
        u_of_frames = torch.where(is_target, u.to(frames), CONTEXT_NOISE).expand(len(frames), -1)

        def predict(network: WorldModel, given_actions: Tensor) -> Tensor:
            prediction = network(given, u_of_frames, given_actions, None, positions)  # noqa: B023  called at once
            return x0_from_prediction(prediction, x_u, level, kind)  # noqa: B023

        x0 = predict(model, actions)
        if guidance != 1.0:
            x0 = predict(unconditional, torch.zeros_like(actions)).lerp(x0, guidance)
        x_u = ddim_step(x_u, x0.clamp(-1.0, 1.0), level, alpha_sigma(u_next, schedule))
    return x_u[:, is_target]


def _noise(shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(validate_seed(seed)), device=device)
