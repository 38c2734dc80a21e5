"""Filling in: any frames of a clip are known, and the others are generated together, with all frames in sight.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector, W frames in the window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dreamrun.model.checkpoint import check_finite
from dreamrun.model.diffusion import add_noise, alpha_sigma, denoise, noise_levels
from dreamrun.model.dit import WorldModel
from dreamrun.model.game_views import with_text, without_text
from dreamrun.model.options import ResolvedSettings, SamplerSettings
from dreamrun.model.sampler import check_prompt


@dataclass(frozen=True)
class FillWindow:
    """A stretch of a clip that is denoised in one go. All numbers are indices of frames in the clip."""

    start: int  # first frame of the window
    frames: list[int]  # that the network sees, in order: known ones, frames filled in before, and targets
    targets: list[int]  # that are filled in


@torch.inference_mode()
def fill(
    model: WorldModel,
    frames: Tensor,
    known: Tensor,
    actions: Tensor | None = None,
    settings: SamplerSettings | None = None,
    start_level: float = 1.0,
) -> Iterator[Tensor]:
    """Generate the unknown frames of clips by DDIM (arXiv 2010.02502) over all of them at once.

    Known frames get a little noise, as the context of a rollout does, and come back as they were. A clip that is longer
    than the window is filled in by overlapping windows: see `plan_windows`. The clips are yielded after each window, so
    that something else can be done in between. Only the last result is complete: `*_, filled = fill(...)`.

    Args:
        model: in eval mode, trained to fill in frames.
        frames: (B, T, C, H, W) float in [-1, 1]. Unknown frames matter only if `start_level` is below 1.
        known: (T,) bool, the same for all clips.
        actions: (B, T, A), each leads into its frame; zeros where unknown. None: all unknown.
        settings: clip i draws its noise from `seed + i`. The noise of a frame does not depend on what is known.
        start_level: noise level from which the unknown frames are denoised. Below 1 they resemble those in `frames`
            (SDEdit, arXiv 2108.01073).

    Returns:
        (B, T, C, H, W) float32 in [-1, 1].

    Raises:
        ValueError: the model never learnt to fill in frames, nothing is unknown, or an argument does not fit the model
            or is out of its range.
    """
    settings = (settings or SamplerSettings()).resolve(model.config)
    check_can_fill(model)
    actions = check_prompt(frames, actions, model.config)
    if known.dtype != torch.bool or known.shape != frames.shape[1:2]:
        raise ValueError(f"known is {known.dtype} {tuple(known.shape)}: expected a bool for each of the clip's frames")
    if known.all():
        raise ValueError(f"all {len(known)} frames are known: there is nothing to fill in")
    if not 0.0 < start_level <= 1.0:
        raise ValueError(f"start_level is {start_level}: it must lie in (0, 1]")
    model = model if settings.text is None else with_text(model, settings.text)
    clips = _Clips(model, frames, actions, settings, start_level)
    filled = clips.frames.clone()
    for window in plan_windows(known.tolist(), model.config.window_frames):
        filled[:, window.targets] = clips.denoise_window(window, filled)
        yield filled


class _Clips:
    """Clips that are filled in, and what is the same for all their windows."""

    def __init__(
        self, model: WorldModel, frames: Tensor, actions: Tensor, settings: ResolvedSettings, start_level: float
    ):
        self.model, self.settings, device = model, settings, model.device
        self.frames, self.actions = frames.to(device, torch.float32), actions.to(device, torch.float32)
        generators = [torch.Generator(device).manual_seed(settings.seed + clip) for clip in range(len(frames))]
        shape, schedule = frames.shape[1:], model.config.schedule
        self.eps = torch.stack([torch.randn(shape, generator=each, device=device) for each in generators])
        self.levels = noise_levels(settings.num_steps, start_level)
        self.scales = [alpha_sigma(u, schedule) for u in self.levels]
        self.context_scale = alpha_sigma(torch.tensor(settings.context_noise), schedule)

    def denoise_window(self, window: FillWindow, filled: Tensor) -> Tensor:
        """Generate the targets of a window, (B, targets, C, H, W), of clips that are filled in so far."""
        is_target = torch.isin(torch.tensor(window.frames), torch.tensor(window.targets)).to(filled.device)
        positions = torch.tensor(window.frames, device=filled.device) - window.start
        frames, actions, eps = (x[:, window.frames] for x in (filled, self.actions, self.eps))
        context = add_noise(frames, eps, self.context_scale)

        def predict(x_u: Tensor, step: int, conditional: bool) -> Tensor:
            given = torch.where(is_target[:, None, None, None], x_u, context)
            u = torch.where(is_target, self.levels[step].to(filled), self.settings.context_noise)
            network = self.model if conditional else without_text(self.model)
            shown_actions = actions if conditional else torch.zeros_like(actions)
            return network(given, u.expand(len(filled), -1), shown_actions, None, positions)

        x_u = add_noise(frames, eps, self.scales[0])
        x_u = denoise(x_u, predict, self.scales, self.model.config.prediction, self.settings.guidance)
        return x_u[:, is_target]


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
