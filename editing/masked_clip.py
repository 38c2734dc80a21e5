"""Clips of which some frames are known, and filling in the others.

Shapes: T frames, S clips, H x W x C pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dreamrun.data.batch import to_float, to_uint8
from dreamrun.games.space import ActionSpace
from dreamrun.model.dit import WorldModel
from dreamrun.model.fill import fill
from dreamrun.model.options import SamplerSettings

MAX_CLIP_FRAMES = 10_000  # of a result


@dataclass(frozen=True)
class MaskedClip:
    """A clip and a mask of its known frames."""

    frames: np.ndarray  # uint8 (T, H, W, C); unknown frames are black, unless they are to be changed
    actions: np.ndarray  # recorded actions, (T,) or (T, names); actions[t] leads into frame t
    known: np.ndarray  # bool (T,)

    def with_actions(self, actions: np.ndarray) -> MaskedClip:
        """The same clip, with these actions at the unknown frames, in their order, again and again."""
        unknown, changed = np.flatnonzero(~self.known), self.actions.copy()
        changed[unknown] = actions[np.arange(len(unknown)) % len(actions)]
        return MaskedClip(self.frames, changed, self.known)


def extend(frames: np.ndarray, actions: np.ndarray, space: ActionSpace, backward: int, forward: int) -> MaskedClip:
    """A clip with `backward` unknown frames before it and `forward` after it."""
    if not backward and not forward:
        raise ValueError("0 frames backward and 0 forward: give at least one of them")
    return _concatenate(space, [backward, (frames, actions), forward])


def between(frames: np.ndarray, actions: np.ndarray, space: ActionSpace, factor: int) -> MaskedClip:
    """A clip of which every `factor`-th frame is known, and the last one; it has as many frames as before."""
    if len(frames) < 3:
        raise ValueError(f"the clip has {len(frames)} frames: at least 3 are needed, to make one between two others")
    known = np.arange(len(frames)) % factor == 0
    known[-1] = True
    shown = np.where(known[:, None, None, None], frames, 0)
    hidden = np.where(known.reshape(-1, *[1] * (actions.ndim - 1)), actions, space.unknown(len(actions)))
    return MaskedClip(shown, hidden.astype(actions.dtype), known)


def join(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], space: ActionSpace, num_frames: int
) -> MaskedClip:
    """Two clips, each frames and actions, with `num_frames` unknown frames between them."""
    frames, actions = second
    actions = actions.copy()
    actions[:1] = space.unknown(1)  # it led into this frame from another one
    return _concatenate(space, [first, num_frames, (frames, actions)])


def loop(
    frames: np.ndarray, actions: np.ndarray, space: ActionSpace, num_frames: int, context_frames: int
) -> MaskedClip:
    """A clip, unknown frames up to `num_frames`, then the clip's start again: cut to `num_frames`, it is a loop.

    Args:
        context_frames: at most so many frames of the start are repeated; the last unknown frames lead into them.
    """
    if num_frames <= len(frames):
        raise ValueError(
            f"the clip has {len(frames)} frames, and a loop of {num_frames} needs fewer: name a part of the clip, "
            "or a longer loop"
        )
    start = slice(min(len(frames), context_frames))
    return _concatenate(space, [(frames, actions), num_frames - len(frames), (frames[start], actions[start])])


def _concatenate(space: ActionSpace, parts: list[tuple[np.ndarray, np.ndarray] | int]) -> MaskedClip:
    """Clips, and numbers of unknown frames, one after another."""
    num_frames = sum(part if isinstance(part, int) else len(part[0]) for part in parts)
    if num_frames > MAX_CLIP_FRAMES:
        raise ValueError(f"the result would have {num_frames} frames: at most {MAX_CLIP_FRAMES} are possible")
    shape = next(part[0].shape[1:] for part in parts if not isinstance(part, int))
    all_frames, all_actions, known = [], [], []
    for part in parts:
        if isinstance(part, int):
            frames, actions = np.zeros((part, *shape), np.uint8), space.unknown(part)
        else:
            frames, actions = part
        all_frames.append(frames)
        all_actions.append(actions)
        known.append(np.full(len(frames), not isinstance(part, int)))
    return MaskedClip(np.concatenate(all_frames), np.concatenate(all_actions), np.concatenate(known))


def complete(
    model: WorldModel,
    clips: list[MaskedClip],
    space: ActionSpace,
    settings: SamplerSettings | None = None,
    start_level: float = 1.0,
) -> Iterator[np.ndarray]:
    """Fill in clips of which the same frames are known. Yields them after each window; the last result is complete.

    Args:
        settings, start_level: as for `model.fill.fill`.

    Returns:
        uint8 (S, T, H, W, C). Known frames are bit for bit as they were.
    """
    known = clips[0].known
    frames = np.stack([clip.frames for clip in clips])
    actions = torch.from_numpy(space.vectors(np.stack([clip.actions for clip in clips])))
    for result in fill(model, to_float(frames), torch.from_numpy(known), actions, settings, start_level):
        filled = to_uint8(result)
        filled[:, known] = frames[:, known]
        yield filled
