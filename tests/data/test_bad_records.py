"""Bad records are reported and skipped."""

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


def test_too_many_bad_records_are_refused(bad_set):
    with pytest.raises(ValueError, match=r"3\.3% of .* more than max_bad_fraction 1\.0%.*data_0001.array_record"):
        ClipDataset(bad_set, "train", clip_frames=8)


def test_only_a_few_bad_records_are_named(tmp_path, write_set, make_record, capsys):
    folder = write_set(tmp_path / "set", [make_record(12, i) for i in range(3)])
    payloads = [encode_record(make_record(12, i)) for i in range(3)]
    write_shard(folder / "train" / f"data_0001{SUFFIX}", [*payloads, *[b"not a record"] * 9])
    ClipDataset(folder, "train", clip_frames=8, max_bad_fraction=0.9)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[-1].startswith("warning: and 4 more in ")


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
    with pytest.raises(ValueError, match="clip_frames is 0 and stride is 8: both must be at least 1"):
        ClipDataset(folder, "train", clip_frames=0)
    with pytest.raises(ValueError, match="clip_frames is 8 and stride is 0: both must be at least 1"):
        ClipDataset(folder, "train", clip_frames=8, stride=0)
