"""Bad and lost records are reported, skipped and replaced."""

import numpy as np
import pytest

from dreamrun.data.dataset import ClipDataset
from dreamrun.data.records import encode_record
from dreamrun.data.shards import SUFFIX, write_shard

LENGTHS = [12, 20, 9, 31, 40, 8, 16, 27, 5, 33, 22, 14]  # one too short for clips of 8 frames


@pytest.fixture
def folder(tmp_path, write_set, make_record):
    """Records of many lengths, five a shard."""
    return write_set(tmp_path / "set", [make_record(length) for length in LENGTHS], records_per_shard=5)


def clips_of(batches) -> list[tuple[int, int]]:
    return [place for batch in batches for place in zip(batch.record_ids.tolist(), batch.starts.tolist(), strict=True)]


def make_unreadable(monkeypatch, dataset: ClipDataset, *record_ids: int) -> None:
    """As if the records were damaged after they were indexed."""
    gone = {(int(dataset.index.shards[i]), int(dataset.index.numbers[i])) for i in record_ids}
    read = dataset.reader.read

    def read_or_raise(shard, number):
        if (shard, number) in gone:
            raise ValueError(f"{dataset.index.paths[shard]}, record {number}: gone")
        return read(shard, number)

    monkeypatch.setattr(dataset.reader, "read", read_or_raise)


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
    assert len(dataset.index.bad) == 1 and dataset.num_lost == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: skipped: ") and "data_0001.array_record, record 0: " in lines[0]


def test_too_many_bad_records_are_refused(bad_set):
    with pytest.raises(ValueError, match=r"3\.3% of .* more than max_bad_fraction 1\.0%.*data_0001.array_record"):
        ClipDataset(bad_set, "train", clip_frames=8)


def test_only_a_few_bad_parts_are_named(tmp_path, write_set, make_record, capsys):
    folder = write_set(tmp_path / "set", [make_record(12, i) for i in range(3)])
    payloads = [encode_record(make_record(12, i)) for i in range(3)]
    write_shard(folder / "train" / f"data_0001{SUFFIX}", [*payloads, *[b"not a record"] * 9])
    ClipDataset(folder, "train", clip_frames=8, max_bad_fraction=0.9)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[-1].startswith("warning: and 4 more in ")


def test_record_lost_after_indexing_is_replaced_warned_of_and_counted(folder, monkeypatch, capsys, make_record):
    dataset = ClipDataset(folder, "train", clip_frames=8, stride=3)
    lost = LENGTHS.index(40)  # the longest: no other record has clips that start as late
    num_batches = dataset.num_batches(4)
    make_unreadable(monkeypatch, dataset, lost)
    batches = list(dataset.batches(4))
    assert len(batches) == num_batches
    for batch in batches:
        assert lost not in batch.record_ids
        for frames, record_id, start in zip(batch.frames, batch.record_ids, batch.starts, strict=True):
            assert np.array_equal(frames, make_record(LENGTHS[record_id]).frames[start : start + 8])
    assert dataset.num_lost == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: skipped a record that can no longer be read: ") and "record 4: gone" in line


def test_record_that_changed_its_length_after_indexing_is_not_used(folder, make_record):
    dataset = ClipDataset(folder, "train", clip_frames=8, stride=3)
    payloads = [encode_record(make_record(length)) for length in [*LENGTHS[:4], 11]]
    write_shard(folder / "train" / f"data_0000{SUFFIX}", payloads)
    assert LENGTHS.index(40) not in {record_id for record_id, _ in clips_of(dataset.batches(4))}
    assert dataset.num_lost == 1


def test_losing_every_record_is_an_error(folder, monkeypatch):
    dataset = ClipDataset(folder, "train", clip_frames=8)
    make_unreadable(monkeypatch, dataset, *range(len(LENGTHS)))
    with pytest.raises(ValueError, match=r"no record of .*train can be read any more"):
        list(dataset.batches(4))


def test_missing_data_says_what_to_do(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no data set at .*none: collect one with `dreamrun collect`"):
        ClipDataset(tmp_path / "none", "train", clip_frames=8)
    with pytest.raises(ValueError, match=r"no \.array_record files in .*val .*holds train"):
        ClipDataset(folder, "val", clip_frames=8)
    with pytest.raises(ValueError, match="has 41 frames: the longest has 40"):
        ClipDataset(folder, "train", clip_frames=41)
    with pytest.raises(ValueError, match="clip_frames is 0 and stride is 8: both must be at least 1"):
        ClipDataset(folder, "train", clip_frames=0)
    with pytest.raises(ValueError, match="clip_frames is 8 and stride is 0: both must be at least 1"):
        ClipDataset(folder, "train", clip_frames=8, stride=0)


def test_sequential_batches_skip_a_lost_record(write_set, make_record, tmp_path, monkeypatch, capsys):
    data = ClipDataset(write_set(tmp_path / "set", [make_record(8, seed) for seed in range(4)]), "train", 4)
    read = data.reader.read

    def lose_one(shard, number):
        if number == 2:
            raise ValueError("gone")
        return read(shard, number)

    monkeypatch.setattr(data.reader, "read", lose_one)
    assert sum(len(batch.frames) for batch in data.sequential_batches(2)) == 6
    assert "warning: skipped a record that can no longer be read: gone" in capsys.readouterr().err
