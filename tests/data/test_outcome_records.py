import numpy as np
import pytest

from dreamrun.data.dataset import ClipDataset
from dreamrun.data.outcomes import EventClips, cut_outcomes, find_event_clips
from dreamrun.games.splitmix import splitmix64_hash


@pytest.fixture
def records(make_record):
    """Four records of 20 frames: a reward at frame 6, an end, neither, and one that knows nothing."""
    rewarded, ended, dull, unknown = (make_record(20, seed) for seed in range(4))
    for record in (rewarded, ended, dull):
        record.rewards, record.terminal = np.zeros(20, np.float32), False
    rewarded.rewards[6] = -2
    ended.terminal = True
    return [rewarded, ended, dull, unknown]


def test_outcomes_belong_to_the_frame_at_which_the_action_is_taken(records, tiny_metadata):
    outcomes = cut_outcomes(records, np.array([4, 12, 0, 0]), 8, tiny_metadata.actions)
    assert outcomes.rewards[0].tolist() == [0, 0, -2, 0, 0, 0, 0, 0]
    assert outcomes.ends[1].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]
    assert not outcomes.ends[0].any() and not outcomes.rewards[2].any()
    assert np.isnan(outcomes.rewards[3]).all() and np.isnan(outcomes.ends[3]).all()
    assert outcomes.next_actions[0].argmax(-1).tolist() == records[0].actions[4:12].tolist()


def test_clips_with_events_are_found(records):
    starts = [np.arange(13)] * 4
    events = find_event_clips(records, starts, 8)
    assert events.num_clips == 52 and events.kinds.tolist() == [2, 3]
    assert [clips.tolist() for clips in events.by_kind] == [[[0, start] for start in range(7)], [[1, 12]]]
    records[0].rewards[0] = 1  # clips with both count as those with a positive reward
    assert [len(clips) for clips in find_event_clips(records, starts, 8).by_kind] == [1, 6, 1]
    assert find_event_clips(records[3:], starts[:1], 8).by_kind == ()


def test_half_of_the_clips_are_replaced_and_weights_restore_the_mean():
    """Kinds are equally frequent afterwards, and the weighted mean of any value is its mean over all clips."""
    num_clips = 200_000
    kinds = np.zeros(num_clips, np.int64)
    kinds[::25], kinds[1::200] = 2, 3
    by_kind = tuple(np.stack((ids := np.flatnonzero(kinds == kind), ids * 0), axis=1) for kind in (2, 3))
    events = EventClips(by_kind, np.array([2, 3]), num_clips)
    ids = np.arange(num_clips)
    chosen, starts = events.replace_half(ids, ids * 0, splitmix64_hash(ids.astype(np.uint64)))
    assert not starts.any() and np.array_equal(ids, np.arange(num_clips))
    found = kinds[chosen]
    assert (found == 2).mean() == pytest.approx(0.27, abs=0.01) and (found == 3).mean() == pytest.approx(
        0.2525, abs=0.01
    )
    few = events.sample(np.random.default_rng(0), 10)
    assert [len(clips) for clips in few.by_kind] == [10, 10]
    drawn, _ = few.replace_half(ids, ids * 0, splitmix64_hash(ids.astype(np.uint64)))
    assert set(drawn[drawn != ids]) == {record for clips in few.by_kind for record in clips[:, 0]}
    weights = events.weights(found)
    assert weights.mean() == pytest.approx(1, abs=0.01)
    for kind, share in ((0, 0.955), (2, 0.04), (3, 0.005)):
        assert (weights * (found == kind)).mean() == pytest.approx(share, rel=0.03)


def test_batches_with_chosen_events_can_be_continued_and_shared(pong_set):
    def batches(**options):
        return ClipDataset(pong_set, "train", 16, stride=32, outcomes=True, choose_events=True, **options)

    whole = list(batches().batches(4))
    event_share = np.mean([(batch.outcomes.rewards != 0).any(1).numpy().mean() for batch in whole])
    assert 0.4 < event_share < 0.75
    plain = list(ClipDataset(pong_set, "train", 16, stride=32, outcomes=True).batches(4))
    assert np.mean([(batch.outcomes.rewards != 0).any(1).numpy().mean() for batch in plain]) < 0.3
    continued = next(iter(batches().batches(4, skip_batches=3)))
    parts = [next(iter(batches(rank=rank, world_size=2).batches(4, skip_batches=3))) for rank in range(2)]
    for name in ("frames", "record_ids", "starts", "seeds"):
        assert np.array_equal(getattr(continued, name), getattr(whole[3], name))
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole[3], name))
    weights = np.concatenate([part.outcomes.weights for part in parts])
    assert np.array_equal(weights, whole[3].outcomes.weights) and weights.min() < 1 < weights.max()
