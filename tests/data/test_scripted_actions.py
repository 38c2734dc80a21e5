"""Clips of real play, and the random actions that long rollouts follow."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import CONTROLS

from dreamrun.data.clips import Clips, draw_clips, scripted_actions
from dreamrun.data.dataset import ClipDataset
from dreamrun.games.space import UNKNOWN_ACTION


@pytest.fixture(scope="module")
def held_out(pong_set):
    return ClipDataset(pong_set, "test", clip_frames=1)


def test_scripted_actions_are_held_and_as_frequent_as_in_real_play(held_out):
    clips = draw_clips(held_out, 3, 24, 5, seed=0)
    script = scripted_actions(clips, 20, 500, seed=0)
    known = clips.actions[clips.actions != UNKNOWN_ACTION]
    shares = np.bincount(known, minlength=3) / len(known)
    assert np.bincount(script.ravel(), minlength=3) / script.size == pytest.approx(shares, abs=0.08)
    # Every sixth frame a new action is drawn, which may equal the old one.
    assert (np.diff(script, axis=1) != 0).mean() == pytest.approx((1 - np.square(shares).sum()) / 6, rel=0.2)
    assert np.array_equal(script, scripted_actions(clips, 20, 500, seed=0))


def test_vectors_are_drawn_whole_and_only_where_they_are_known():
    vectors = CONTROLS.unknown(2, 6)
    vectors[0, 3:5] = CONTROLS.parse("left+jump"), CONTROLS.parse("dx=0.5")
    frames = np.zeros((2, 6, 2, 2, 3), np.uint8)
    clips = Clips(frames, vectors, np.array([5, 6]), CONTROLS, fps=15.0)
    script = scripted_actions(clips, 3, 40, seed=0)
    assert {CONTROLS.format(vector) for vector in script.reshape(-1, 6)} == {"left+jump", "dx=0.5"}
    other = clips.other_actions(3)
    assert np.array_equal(other[1, 3:], vectors[0, [3, 4, 3]]) and np.isnan(other[0]).all()
    with pytest.raises(ValueError, match="no action of the clips is known"):
        scripted_actions(replace(clips, actions=CONTROLS.unknown(2, 6)), 3, 40, seed=0)


def test_clips_are_drawn_by_seed_and_end_with_their_record(held_out):
    clips, again = (draw_clips(held_out, 3, 300, 5, seed=0) for _ in range(2))
    assert np.array_equal(clips.frames, again.frames) and np.array_equal(clips.starts, again.starts)
    for row, record in enumerate(held_out.records(clips.record_ids)):
        length = len(record)
        assert clips.lengths[row] == length
        assert np.array_equal(clips.frames[row, :length], record.frames)
        assert not clips.frames[row, length:].any() and (clips.actions[row, length:] == UNKNOWN_ACTION).all()
    assert (clips.other_actions(4)[:, 4:] != UNKNOWN_ACTION).all()
    with pytest.raises(ValueError, match=r"no record of .* has 1000 frames: the longest has 1"):
        draw_clips(held_out, 3, 300, 1000, seed=0)
