"""Batches: every clip once, shuffled, disjoint between ranks, resumable, with the right actions, of good records."""

from collections import Counter

import numpy as np
import pytest
import torch

from dreamrun.data.dataset import POOL_RECORDS, ClipDataset, clip_seeds, clip_start, count_clips, cut_clip
from dreamrun.data.records import encode_record
from dreamrun.data.shards import SUFFIX, write_shard
from dreamrun.games.space import UNKNOWN_ACTION

LENGTHS = [12, 20, 9, 31, 40, 8, 16, 27, 5, 33, 22, 14]  # one too short for clips of 8 frames


@pytest.fixture
def folder(tmp_path, write_set, make_record):
    """Records of many lengths, five a shard."""
    return write_set(tmp_path / "set", [make_record(length) for length in LENGTHS], records_per_shard=5)


def clips_of(batches) -> list[tuple[int, int]]:
    return [place for batch in batches for place in zip(batch.record_ids.tolist(), batch.starts.tolist(), strict=True)]


def clip_starts(num_frames: int, clip_frames: int, stride: int) -> np.ndarray:
    return clip_start(np.arange(count_clips(num_frames, clip_frames, stride)), num_frames, clip_frames, stride)


def all_clips(lengths, clip_frames, stride) -> set[tuple[int, int]]:
    starts = [clip_starts(length, clip_frames, stride).tolist() for length in lengths]
    return {(record_id, start) for record_id, found in enumerate(starts) for start in found}


def test_clip_starts():
    assert clip_starts(160, 32, 8).tolist() == list(range(0, 129, 8))
    assert len(clip_starts(160, 32, 8)) == 17
    assert clip_starts(45, 32, 8).tolist() == [0, 8, 13]  # the last one flush with the end
    assert clip_starts(100, 32, 50).tolist() == [0, 50, 68]
    assert clip_starts(32, 32, 8).tolist() == [0]
    assert clip_starts(31, 32, 8).tolist() == []
    assert clip_starts(0, 32, 8).tolist() == []


@pytest.mark.parametrize("know_leading", [True, False])
def test_cut_clip_starts_with_the_action_before_it_or_with_none(make_record, know_leading):
    record = make_record(20)
    record.actions[:] = np.arange(20) % 5
    frames, actions = cut_clip(record, 7, 4, know_leading)
    assert np.array_equal(frames, record.frames[7:11])
    assert actions.tolist() == [1 if know_leading else UNKNOWN_ACTION, 2, 3, 4]
    assert cut_clip(record, 0, 3, know_leading)[1].tolist() == [UNKNOWN_ACTION, 0, 1]
    assert np.array_equal(record.actions, np.arange(20) % 5)  # untouched


def test_clips_hold_what_their_ids_say(folder, make_record):
    for batch in ClipDataset(folder, "train", clip_frames=8, stride=3).batches(5):
        assert (batch.frames.shape, batch.frames.dtype) == ((5, 8, 8, 8, 3), torch.uint8)
        assert (batch.actions.shape, batch.actions.dtype) == ((5, 8, 5), torch.float32)
        for frames, record_id, start in zip(batch.frames, batch.record_ids, batch.starts, strict=True):
            assert np.array_equal(frames, make_record(LENGTHS[record_id]).frames[start : start + 8])


def test_actions_lead_into_their_frames(folder):
    """Each frame of these records shows the action that was taken before it (9: none)."""
    dataset, known, unknown = ClipDataset(folder, "train", clip_frames=8, stride=1), 0, 0
    for epoch in range(4):
        for batch in dataset.batches(8, epoch):
            shown, actions = batch.frames[:, :, 0, 0, 0].numpy(), batch.actions.numpy()
            assert set(np.unique(actions)) <= {0.0, 1.0}
            held = actions.sum(-1)
            assert (held[:, 1:] == 1).all()
            assert np.array_equal(actions[:, 1:].argmax(-1), shown[:, 1:])
            assert (held[batch.starts == 0, 0] == 0).all() and (shown[batch.starts == 0, 0] == 9).all()
            later, leading = batch.starts > 0, held[:, 0] == 1
            assert np.array_equal(actions[leading, 0].argmax(-1), shown[leading, 0])
            known, unknown = known + (later & leading).sum(), unknown + (later & ~leading).sum()
    assert known + unknown > 400
    assert 0.4 < known / (known + unknown) < 0.6


def test_an_epoch_holds_every_clip_once_and_ends_before_a_partial_batch(folder):
    dataset, expected = ClipDataset(folder, "train", clip_frames=8, stride=3), all_clips(LENGTHS, 8, 3)
    clips = clips_of(dataset.batches(1))
    assert dataset.num_clips == len(clips) == len(expected) and set(clips) == expected
    batches = list(dataset.batches(10))
    assert len(batches) == dataset.num_batches(10) == dataset.num_clips // 10 and dataset.num_clips % 10
    assert {len(batch.frames) for batch in batches} == {10}
    clips = clips_of(batches)
    assert len(set(clips)) == len(clips) and set(clips) <= expected


def test_order_and_hidden_actions_follow_from_seed_and_epoch_alone(folder):
    def order(seed, epoch, num_threads=2):
        dataset = ClipDataset(folder, "train", 8, stride=3, seed=seed, num_threads=num_threads)
        return [(clips_of([batch]), batch.actions.tolist()) for batch in dataset.batches(4, epoch)]

    first = order(0, 0)
    assert first == order(0, 0, num_threads=1)
    assert first != order(0, 1) and first != order(1, 0) and order(0, 1) != order(1, 0)
    dataset = ClipDataset(folder, "train", 8, stride=3)
    orders = [[clips_of([batch]) for batch in dataset.batches(4, epoch)] for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] == [clips for clips, _ in first] and orders[1] == [clips for clips, _ in order(0, 1)]


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_together_have_the_batches_of_one(folder, world_size):
    """Clip by clip, so that the number of ranks changes nothing."""
    whole = ClipDataset(folder, "train", 8, stride=3)
    sets = [ClipDataset(folder, "train", 8, stride=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in range(3):
        parts = [list(dataset.batches(6, epoch)) for dataset in sets]
        for batch, *own in zip(whole.batches(6, epoch), *parts, strict=True):
            for name in ("frames", "actions", "record_ids", "starts", "seeds"):
                assert np.array_equal(np.concatenate([getattr(part, name) for part in own]), getattr(batch, name))


def test_an_epoch_begun_by_some_ranks_is_ended_by_others(folder):
    """No clip is lost, none comes twice."""
    two = [ClipDataset(folder, "train", 8, stride=3, rank=rank, world_size=2) for rank in range(2)]
    three = [ClipDataset(folder, "train", 8, stride=3, rank=rank, world_size=3) for rank in range(3)]
    begun = [clip for dataset in two for clip in clips_of(list(dataset.batches(6))[:3])]
    ended = [clip for dataset in three for clip in clips_of(dataset.batches(6, skip_batches=3))]
    assert len(begun) == 3 * 6
    assert sorted(begun + ended) == sorted(clips_of(ClipDataset(folder, "train", 8, stride=3).batches(6)))


def test_few_records_are_read_twice(tmp_path, write_set, make_record, monkeypatch):
    folder = write_set(tmp_path / "set", [make_record(40, i) for i in range(100)])
    reads = Counter()
    for rank in range(4):
        dataset = ClipDataset(folder, "train", 8, rank=rank, world_size=4, pool_records=25)
        read = dataset.reader.read
        monkeypatch.setattr(dataset.reader, "read", lambda *place, read=read: reads.update([place]) or read(*place))
        list(dataset.batches(4))
    assert len(reads) == 100 and reads.total() <= 100 + 4 * 4  # a pool is cut in four places at most
    reads.clear()
    dataset = ClipDataset(folder, "train", 8)
    read = dataset.reader.read
    monkeypatch.setattr(dataset.reader, "read", lambda *place: reads.update([place]) or read(*place))
    list(dataset.batches(1))
    assert len(reads) == reads.total() == 100  # each record is read once


def test_clip_seeds_depend_on_seed_epoch_and_clip_alone():
    ids, starts = np.arange(1000) // 10, np.arange(1000) % 10
    seeds = clip_seeds(0, 0, ids, starts)
    assert np.array_equal(clip_seeds(0, 0, ids[::-1], starts[::-1]), seeds[::-1])
    others = [clip_seeds(0, 1, ids, starts), clip_seeds(1, 0, ids, starts), clip_seeds(0, 0, starts, ids)]
    low_bits = np.concatenate([seeds, *others]) & np.uint64(0xFFFFFFFF)  # all that a CPU generator takes of a seed
    assert len(np.unique(low_bits)) > 3800 and 400 < (seeds >> np.uint64(63)).sum() < 600


def test_order_fingerprint_changes_with_the_order(folder, tmp_path, write_set, make_record):
    key = ClipDataset(folder, "train", 8).order_fingerprint(4)
    assert key == ClipDataset(folder, "train", 8, rank=1, world_size=2).order_fingerprint(4)
    other_set = write_set(tmp_path / "other", [make_record(length) for length in LENGTHS[1:]])
    others = [
        ClipDataset(folder, "train", 9),
        ClipDataset(folder, "train", 8, seed=1),
        ClipDataset(other_set, "train", 8),
    ]
    keys = [dataset.order_fingerprint(4) for dataset in others] + [ClipDataset(folder, "train", 8).order_fingerprint(5)]
    assert all(sum(other[name] != key[name] for name in key) == 1 for other in keys)


def test_skipping_gives_the_tail_of_the_same_sequence(folder):
    dataset = ClipDataset(folder, "train", clip_frames=8, stride=3)
    whole = list(dataset.batches(4, epoch=2))
    for skip in (0, 1, 5, len(whole), len(whole) + 1):
        tail = list(dataset.batches(4, epoch=2, skip_batches=skip))
        assert len(tail) == len(whole[skip:])
        for one, other in zip(tail, whole[skip:], strict=True):
            assert np.array_equal(one.frames, other.frames) and np.array_equal(one.actions, other.actions)
            assert clips_of([one]) == clips_of([other])


@pytest.mark.parametrize("num_records", [150, 275])
def test_batches_hold_clips_of_many_records(tmp_path, write_set, make_record, num_records):
    """To the last batch, though the records are not a multiple of what is shuffled together."""
    folder = write_set(tmp_path / "set", [make_record(160, i) for i in range(num_records)])
    dataset = ClipDataset(folder, "train", clip_frames=32, pool_records=POOL_RECORDS // 4)
    assert dataset.num_clips == num_records * 17
    batches = list(dataset.batches(32))
    clips = clips_of(batches)
    assert len(batches) == num_records * 17 // 32 and len(set(clips)) == len(clips)
    different = [len(set(batch.record_ids.tolist())) for batch in batches]
    assert min(different) >= 22 and np.mean(different) >= 27


def test_pools_differ_between_epochs(folder):
    dataset, first = ClipDataset(folder, "train", clip_frames=8, stride=3, pool_records=4), set()
    for epoch in range(3):
        clips = clips_of(dataset.batches(1, epoch))
        assert len(clips) == len(set(clips)) == dataset.num_clips
        first.add(frozenset(record_id for record_id, _ in clips[:10]))
    assert len(first) == 3


def test_whole_records_come_by_number(folder, make_record):
    dataset = ClipDataset(folder, "train", clip_frames=8)
    records = list(dataset.records([3, 0]))
    assert [len(record) for record in records] == [LENGTHS[3], LENGTHS[0]]
    assert np.array_equal(records[0].frames, make_record(LENGTHS[3]).frames)


@pytest.mark.parametrize("world_size", [1, 3])
def test_sequential_batches_see_every_frame_once(write_set, make_record, tmp_path, world_size):
    """Over all ranks, each with a share of its own size; a record's last clip overlaps the one before."""
    lengths = [12, 9, 3, 4, 5]
    folder = write_set(tmp_path / "set", [make_record(n, seed) for seed, n in enumerate(lengths)])

    def seen(**options):
        batches = [
            batch
            for rank in range(world_size)
            for batch in ClipDataset(folder, "train", 4, rank=rank, world_size=world_size).sequential_batches(
                2, **options
            )
        ]
        assert all(len(batch.frames) <= 2 for batch in batches)
        return [clip for batch in batches for clip in zip(batch.record_ids, batch.starts, batch.seeds, strict=True)]

    clips = seen()
    covered = {(record, start + t) for record, start, _ in clips for t in range(4)}
    assert covered == {(record, t) for record, n in enumerate(lengths) if n >= 4 for t in range(n)}
    assert len(clips) == len(set(clips)) == 3 + 3 + 0 + 1 + 2
    assert seen(max_clips=4) == clips[:4]
    alone = ClipDataset(folder, "train", 4).sequential_batches(100)
    assert sorted(next(alone).seeds) == sorted(seed for *_, seed in clips)


# Bad records are reported and skipped


@pytest.fixture
def bad_set(tmp_path, write_set, make_record):
    """Thirty records, the eleventh of them not one."""
    folder = write_set(tmp_path / "set", [make_record(12, i) for i in range(30)], records_per_shard=10)
    payloads = [encode_record(make_record(12, i)) for i in range(10)]
    write_shard(folder / "train" / f"data_0001{SUFFIX}", [b"not a record", *payloads[1:]])
    return folder


def test_bad_record_is_skipped_and_named_once(bad_set, capsys):
    dataset = ClipDataset(bad_set, "train", clip_frames=8, stride=4, max_bad_fraction=0.05)
    assert [len(clips_of(dataset.batches(1, epoch))) for epoch in range(2)] == [29 * 2] * 2
    assert len(dataset.index.bad) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: skipped: ") and "data_0001.array_record, record 0: " in lines[0]


def test_too_many_bad_records_are_refused_and_only_a_few_are_named(bad_set, capsys):
    with pytest.raises(ValueError, match=r"3\.3% of .* more than max_bad_fraction 1\.0%.*data_0001.array_record"):
        ClipDataset(bad_set, "train", clip_frames=8)
    write_shard(bad_set / "train" / f"data_0002{SUFFIX}", [b"not a record"] * 9)
    capsys.readouterr()
    ClipDataset(bad_set, "train", clip_frames=8, max_bad_fraction=0.9)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[-1].startswith("warning: and 5 more in ")


def test_record_lost_or_changed_after_indexing_is_named(folder, make_record):
    dataset = ClipDataset(folder, "train", clip_frames=8, stride=3)
    payloads = [encode_record(make_record(length)) for length in [*LENGTHS[:4], 11]]
    write_shard(folder / "train" / f"data_0000{SUFFIX}", payloads)
    for batches in (dataset.batches(4), dataset.sequential_batches(4)):
        with pytest.raises(ValueError, match=r"data_0000\.array_record, record 4: it changed since it was indexed"):
            list(batches)


def test_missing_data_says_what_to_do(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no data set at .*none: collect one with `dreamrun collect`"):
        ClipDataset(tmp_path / "none", "train", clip_frames=8)
    with pytest.raises(ValueError, match=r"no \.array_record files in .*val .*holds train"):
        ClipDataset(folder, "val", clip_frames=8)
    with pytest.raises(ValueError, match="has 41 frames: the longest has 40"):
        ClipDataset(folder, "train", clip_frames=41)


def test_names_of_files_are_printed_without_control_characters(tmp_path, write_set, make_record, capsys):
    folder = write_set(tmp_path / "set", [make_record(9)])
    (folder / "train" / "\x1b[31mred.array_record").write_text("no shard")
    ClipDataset(folder, "train", 4, max_bad_fraction=1.0)
    err = capsys.readouterr().err
    assert "warning: skipped" in err and r"\x1b[31mred" in err and "\x1b" not in err
