"""Clips are drawn by seed, end with their record, and are the same as those that earlier versions drew."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from tiny import CONTROLS

from dreamrun.data.clips import Clips, draw_clips, draw_records, held_out_clips, scripted_actions
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.records import Record
from dreamrun.games.space import UNKNOWN_ACTION

LENGTHS = (30, 12, 25, 9, 40, 18, 33, 21)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, tiny_metadata, write_set):
    """Eight records of random frames and actions."""
    records = []
    for seed, num_frames in enumerate(LENGTHS):
        rng = np.random.default_rng((num_frames, seed))
        frames = rng.integers(0, 256, (num_frames, *tiny_metadata.frame_shape), np.uint8)
        records.append(Record(frames, rng.integers(0, 5, num_frames).astype(np.int32)))
    folder = write_set(tmp_path_factory.mktemp("set"), records, "test")
    return ClipDataset(folder, "test", clip_frames=1)


def crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def test_held_out_clips_are_the_first_frames_of_records(dataset):
    clips = held_out_clips(dataset, 3, 20, seed=5)
    for row, record in enumerate(dataset.records(clips.record_ids)):
        assert np.array_equal(clips.frames[row], record.frames[:20])
        assert np.array_equal(clips.actions[row], record.leading_actions()[:20])
    assert clips.starts.tolist() == [0, 0, 0] and clips.lengths.tolist() == [20, 20, 20]
    assert clips.space == dataset.metadata.actions and clips.fps == dataset.metadata.fps


def test_held_out_clips_may_be_shorter_if_allowed(dataset):
    clips = held_out_clips(dataset, 5, 24, seed=1, min_frames=10)
    assert clips.lengths.tolist() == [min(24, LENGTHS[i]) for i in clips.record_ids]
    assert clips.num_true_frames == min(clips.lengths) == 12
    short = int(clips.lengths.argmin())
    assert clips.frames[short, 11].any() and not clips.frames[short, 12:].any()
    assert (clips.actions[short, 12:] == UNKNOWN_ACTION).all()


def test_too_few_records_are_an_error(dataset):
    with pytest.raises(ValueError, match=r"3 samples of 34 frames were requested, but only 1 .* longest has 40"):
        held_out_clips(dataset, 3, 34)
    with pytest.raises(ValueError, match="0 samples"):
        held_out_clips(dataset, 0, 20)
    with pytest.raises(ValueError, match=r"no record of .* has 41 frames: the longest has 40"):
        draw_clips(dataset, 3, 50, 41, seed=0)


def test_other_actions_are_those_of_the_clip_before(dataset):
    clips = draw_clips(dataset, 6, 20, 10, seed=7)
    other = clips.other_actions(4)
    assert np.array_equal(other[:, :4], clips.actions[:, :4])
    assert np.array_equal(other[1, 4:], clips.actions[0, 4:])
    last, length = clips.actions[-1], clips.lengths[-1]
    assert length == 12 and np.array_equal(other[0, 4:], np.tile(last[4:length], 2))


def test_clips_of_a_seed_never_change(dataset):
    """Numbers that the code gave before `Clips` was one class."""
    held = held_out_clips(dataset, 3, 20, seed=5)
    assert held.record_ids.tolist() == [6, 4, 0]
    assert (crc(held.frames), crc(held.actions)) == (956833811, 3859493927)
    short = held_out_clips(dataset, 5, 24, seed=1, min_frames=10)
    assert short.record_ids.tolist() == [2, 0, 4, 6, 1]
    assert (crc(short.frames), crc(short.actions)) == (1320470223, 1361528928)
    drawn = draw_clips(dataset, 6, 20, 10, seed=7)
    assert drawn.record_ids.tolist() == [0, 6, 7, 2, 5, 1] and drawn.starts.tolist() == [0, 4, 0, 5, 0, 0]
    assert drawn.lengths.tolist() == [20, 20, 20, 20, 18, 12]
    assert (crc(drawn.frames), crc(drawn.actions)) == (1075164422, 2613144228)
    assert crc(drawn.other_actions(4)) == 1724694820
    script = scripted_actions(drawn, 2, 12, seed=3)
    assert script.tolist() == [[4] * 8 + [0] * 4, [0] * 4 + [1] * 3 + [0] * 5]
    assert [len(record) for record in draw_records(dataset, 4, seed=2)] == [33, 18, 21, 25]


def test_scripted_actions_are_held_and_as_frequent_as_in_real_play(pong_set):
    held_out = ClipDataset(pong_set, "test", clip_frames=1)
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
    clips = Clips(frames, vectors, np.array([5, 6]), CONTROLS, 15.0, np.arange(2), np.zeros(2, int))
    script = scripted_actions(clips, 3, 40, seed=0)
    assert {CONTROLS.format(vector) for vector in script.reshape(-1, 6)} == {"left+jump", "dx=0.5"}
    other = clips.other_actions(3)
    assert np.array_equal(other[1, 3:], vectors[0, [3, 4, 3]]) and np.isnan(other[0]).all()
    with pytest.raises(ValueError, match="no action of the clips is known"):
        scripted_actions(replace(clips, actions=CONTROLS.unknown(2, 6)), 3, 40, seed=0)
