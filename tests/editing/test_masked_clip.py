"""Masked clips, and what edited ones are compared with."""

import numpy as np
from tiny import CONTROLS, TINY, random_model

from dreamrun.editing.masked_clip import MaskedClip, between, complete, extend, join, loop
from dreamrun.editing.measures import cross_fade, nearest_known, seam_steps, step_sizes
from dreamrun.games.space import UNKNOWN_ACTION, unnamed_actions
from dreamrun.model import ModelConfig
from dreamrun.model.options import SamplerSettings

SPACE = unnamed_actions(3)


def clip(num_frames: int, first: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Frames of one grey level each, and actions."""
    levels = np.arange(first, first + num_frames, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, 16, 24, 3)).copy(), np.arange(num_frames) % 3


def levels(masked: MaskedClip) -> list[int | None]:
    return [int(frame.max()) if known else None for frame, known in zip(masked.frames, masked.known, strict=True)]


def test_drafts_put_known_and_unknown_frames_in_order():
    masked = extend(*clip(2), SPACE, 2, 1)
    assert levels(masked) == [None, None, 1, 2, None]
    assert masked.actions.tolist() == [UNKNOWN_ACTION, UNKNOWN_ACTION, 0, 1, UNKNOWN_ACTION]
    assert masked.with_actions(np.array([1, 2])).actions.tolist() == [1, 2, 0, 1, 1]
    masked = between(*clip(6), SPACE, 3)
    assert levels(masked) == [1, None, None, 4, None, 6] and masked.actions.tolist() == [0, -1, -1, 0, -1, 2]
    masked = join(clip(2), clip(2, 7), SPACE, 2)
    assert levels(masked) == [1, 2, None, None, 7, 8] and masked.actions.tolist() == [0, 1, -1, -1, -1, 1]
    masked = loop(*clip(3), SPACE, 5, context_frames=2)
    assert levels(masked) == [1, 2, 3, None, None, 1, 2]
    frames, vectors = clip(2)[0], np.zeros((2, 6), np.float32)
    masked = extend(frames, vectors, CONTROLS, 0, 1)
    assert np.isnan(masked.actions[2]).all() and not masked.actions[:2].any()
    assert np.isnan(between(*clip(3)[:1], np.zeros((3, 6), np.float32), CONTROLS, 2).actions[1]).all()


def test_known_frames_stay_as_they_are():
    model = random_model(ModelConfig(**{**TINY.to_dict(), "can_fill": True}))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 16, 24, 3)).astype(np.uint8)
    masked_clips = [extend(frames, np.arange(4) % 3, SPACE, 3, 4), extend(frames[::-1], np.arange(4) % 3, SPACE, 3, 4)]
    *_, (first, second) = complete(model, masked_clips, SPACE, SamplerSettings(num_steps=2))
    assert np.array_equal(first[3:7], frames) and np.array_equal(second[3:7], frames[::-1])
    assert first.shape == (11, 16, 24, 3) and first[:3].std() > 5 and not np.array_equal(first[:3], second[:3])


def test_baselines_and_steps():
    frames, known = clip(6, 10)[0], np.array([0, 1, 0, 0, 0, 1], bool)
    assert nearest_known(frames, known)[:, 0, 0, 0].tolist() == [11, 11, 11, 11, 15, 15]
    frames[5] = 31
    assert cross_fade(frames, known)[:, 0, 0, 0].tolist() == [11, 11, 16, 21, 26, 31]
    assert nearest_known(frames[None], known).shape == cross_fade(frames[None], known).shape == (1, *frames.shape)
    assert step_sizes(frames).tolist() == [1, 1, 1, 1, 17] == seam_steps(frames, known).tolist()
    assert seam_steps(frames, np.array([1, 1, 1, 1, 0, 1], bool)).tolist() == [1, 17]
