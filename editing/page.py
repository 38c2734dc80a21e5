"""Clips that the model makes of a dream: what might have led to its start, and a loop of its last frames."""

from collections.abc import Sequence

import numpy as np

from dreamrun.data.video import edited, mp4_bytes
from dreamrun.editing.masked_clip import MaskedClip, extend, loop
from dreamrun.games.space import ActionSpace

TASKS = ("rewind", "loop")
REWIND_WINDOWS, LOOP_WINDOWS = 1, 2  # length of what is generated before the prompt, and of a loop, in windows


def mask_dream(
    task: str,
    prompt: np.ndarray,
    actions: np.ndarray,
    recent: Sequence[np.ndarray],
    space: ActionSpace,
    window_frames: int,
) -> tuple[MaskedClip, int]:
    """What is known of a clip, and how many of its frames to show.

    "rewind": the prompt, with unknown frames before it. "loop": the last frames of the rollout, unknown frames, and the
    same frames again, which are not shown.

    Args:
        prompt: frames uint8 (T, H, W, C) that the rollout started from.
        actions: recorded actions (T,) or (T, names) that lead into these frames, then into those of the rollout.
        recent: the rollout's last frames, uint8 (H, W, C).
    """
    if task == "rewind":
        clip = extend(np.array(prompt), actions[: len(prompt)], space, REWIND_WINDOWS * window_frames, 0)
        return clip, len(clip.frames)
    num_frames = LOOP_WINDOWS * window_frames
    return loop(np.stack(recent), actions[-len(recent) :], space, num_frames, len(recent)), num_frames


def edited_mp4(frames: np.ndarray, clip: MaskedClip, num_frames: int, space: ActionSpace, fps: float) -> bytes:
    """The first `num_frames` frames of a finished clip as an mp4 that frames the known ones."""
    shown = slice(num_frames)
    return mp4_bytes(edited(frames[shown], clip.actions[shown], clip.known[shown], space), fps, decorated=True)
