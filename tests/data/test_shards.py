"""Shards: nothing bad is opened silently, nothing half-written is left, and an index is made once."""

import contextlib
import json
import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import play

from dreamrun.data.index import INDEX_FILE, index_split
from dreamrun.data.metadata import METADATA_FILE, PUBLIC_SET, read_metadata
from dreamrun.data.records import Record, encode_record
from dreamrun.data.shards import RECORDS_PER_SHARD, SUFFIX, ShardReader, open_shard, write_shard
from dreamrun.games.game import Game
from dreamrun.games.procgen_actions import procgen_actions
from dreamrun.games.space import ActionSpace, unnamed_actions


def open_files_below(folder: Path) -> int:
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # another thread has closed it since
            count += os.readlink(f"/proc/self/fd/{number}").startswith(str(folder))
    return count


def flip_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def shard_of(folder: Path, number: int, split: str = "train") -> Path:
    return folder / split / f"data_{number:04d}{SUFFIX}"


@pytest.fixture
def many_shards(tmp_path, write_set, make_record):
    """Twelve shards of three records, each of 4 + its number frames."""
    return write_set(tmp_path / "set", [make_record(4 + i) for i in range(36)], records_per_shard=3)


@pytest.fixture
def count_reads(monkeypatch):
    """The (shard, number) of every record read from here on."""
    reads, read = [], ShardReader.read
    monkeypatch.setattr(ShardReader, "read", lambda self, *place: reads.append(place) or read(self, *place))
    return reads


# Opening


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_shard_is_refused(many_shards, share):
    path = shard_of(many_shards, 0)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"{path.name} is not a complete ArrayRecord file"):
        open_shard(path)


def test_what_is_no_shard_is_refused_and_does_not_stay_open(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"no shard at {path}"):
            open_shard(path)
    path = tmp_path / f"foreign{SUFFIX}"
    for content in (b"plain text\n" * 5, b"plain text\n" * 20_000, bytes(1 << 17)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a complete ArrayRecord file"):
            open_shard(path)
    assert open_files_below(tmp_path) == 0


# Writing


def test_shard_appears_only_when_complete(tmp_path, make_record):
    path = tmp_path / f"data{SUFFIX}"
    path.with_name(path.name + ".tmp").write_bytes(b"half of a shard" * 10_000)  # of a process that was killed

    def payloads():
        for i in range(3):
            assert not path.exists()
            yield encode_record(make_record(5, i))

    write_shard(path, payloads())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert open_shard(path).num_records() == 3
    assert "group_size:1" in open_shard(path).writer_options_string()  # so that reading one record decodes one


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_writing_changes_no_files(tmp_path, make_record, error):
    def payloads():
        yield encode_record(make_record(5))
        raise error("stopped")

    path, old = tmp_path / f"new{SUFFIX}", tmp_path / f"old{SUFFIX}"
    write_shard(old, [encode_record(make_record(6))])
    before = old.read_bytes()
    for target in (path, old):
        with pytest.raises(error, match="stopped"):
            write_shard(target, payloads())
    assert [file.name for file in tmp_path.iterdir()] == [old.name]
    assert old.read_bytes() == before


# Reading


def test_reader_limits_open_files_with_many_threads(many_shards, tiny_metadata, make_record):
    paths = sorted((many_shards / "train").glob(f"*{SUFFIX}"))
    reader = ShardReader(paths, tiny_metadata, max_open_files=3)
    places = [(shard, number) for shard in range(12) for number in range(3)] * 8
    np.random.default_rng(0).shuffle(places)
    most_open = 0

    def read(place):
        nonlocal most_open
        record = reader.read(*place)
        most_open = max(most_open, open_files_below(many_shards))
        return record

    with ThreadPoolExecutor(4) as pool:
        for (shard, number), record in zip(places, pool.map(read, places), strict=True):
            expected = make_record(4 + 3 * shard + number)
            assert np.array_equal(record.frames, expected.frames)
            assert np.array_equal(record.actions, expected.actions)
    assert open_files_below(many_shards) == 3
    assert 3 <= most_open <= 3 + 4  # a thread may hold one more while it reads from it
    with pytest.raises(ValueError, match=r"data_0005.array_record, record 3: "):
        reader.read(5, 3)  # past the end


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
def test_flipped_byte_loses_one_record(tmp_path, write_set, make_record, tiny_metadata, share):
    records = [make_record(30, i) for i in range(20)]  # of noise: zstd leaves their size as it is
    path = shard_of(write_set(tmp_path / "set", records), 0)
    flip_byte(path, int(share * sum(len(encode_record(record)) for record in records)))
    reader, bad = ShardReader([path], tiny_metadata), []
    for number, expected in enumerate(records):
        try:
            assert np.array_equal(reader.read(0, number).frames, expected.frames)
        except ValueError as error:
            assert f"{path.name}, record {number}: " in str(error)
            bad.append(number)
    assert len(bad) == 1


# The index


def test_index_names_each_bad_part_once(tmp_path, write_set, make_record, tiny_metadata):
    folder = write_set(tmp_path / "set", [make_record(10 + i) for i in range(12)], records_per_shard=3)
    payloads = [encode_record(make_record(10 + i)) for i in range(3)]
    write_shard(shard_of(folder, 1), [payloads[0], b"not a record", payloads[2]])
    shard_of(folder, 2).write_bytes(b"")
    for _ in range(2):  # read, and from the cache
        index = index_split(folder, "train", tiny_metadata)
        assert [(part.shard, part.number) for part in index.bad] == [
            ("data_0001.array_record", 1),
            ("data_0002.array_record", None),
        ]
        assert "data_0001.array_record, record 1: not a readable record" in index.bad[0].reason
        assert "data_0002.array_record is not a complete ArrayRecord file" in index.bad[1].reason
        good = list(zip(index.shards.tolist(), index.numbers.tolist(), index.lengths.tolist(), strict=True))
        assert good == [(0, 0, 10), (0, 1, 11), (0, 2, 12), (1, 0, 10), (1, 2, 12), (3, 0, 19), (3, 1, 20), (3, 2, 21)]
        bad = 1 + RECORDS_PER_SHARD
        assert index.bad_fraction == pytest.approx(bad / (bad + 8))


def test_cached_index_reads_no_records_even_if_the_set_has_moved(many_shards, tiny_metadata, count_reads):
    first = index_split(many_shards, "train", tiny_metadata)
    assert len(count_reads) == 36
    count_reads.clear()
    moved = shutil.move(many_shards, many_shards.with_name("moved"))
    second = index_split(moved, "train", tiny_metadata, progress=lambda *_: pytest.fail("read again"))
    assert count_reads == []
    for name in ("shards", "numbers", "lengths"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert second.paths == [moved / path.relative_to(many_shards) for path in first.paths]


def test_only_changed_and_new_shards_are_read_again(many_shards, tiny_metadata, make_record, count_reads):
    index_split(many_shards, "train", tiny_metadata)
    count_reads.clear()
    write_shard(shard_of(many_shards, 4), [encode_record(make_record(50))])
    write_shard(shard_of(many_shards, 12), [encode_record(make_record(60))])
    shard_of(many_shards, 0).unlink()
    progress_calls = []
    index = index_split(many_shards, "train", tiny_metadata, progress=lambda *done: progress_calls.append(done))
    assert sorted(count_reads) == [(3, 0), (11, 0)]
    assert progress_calls == [(1, 2), (2, 2)]
    expected = [7 + i for i in range(9)] + [50] + [4 + i for i in range(15, 36)] + [60]
    assert index.lengths.tolist() == expected


def test_index_is_rebuilt_for_other_metadata(many_shards, tiny_metadata, count_reads):
    index_split(many_shards, "train", tiny_metadata)
    count_reads.clear()
    assert len(index_split(many_shards, "train", replace(PUBLIC_SET, frame_shape=(8, 8, 3))).lengths) == 36
    assert len(count_reads) == 36
    assert len(index_split(many_shards, "train", replace(PUBLIC_SET, frame_shape=(9, 9, 3))).bad) == 36


DAMAGES = {
    "empty": lambda cache: "",
    "truncated": lambda cache: json.dumps(cache)[:100],
    "not text": lambda cache: "\x00\x01",
    "a list": lambda cache: "[]",
    "shards are numbers": lambda cache: json.dumps({**cache, "shards": dict.fromkeys(cache["shards"], 7)}),
    "shards are empty": lambda cache: json.dumps({**cache, "shards": {name: {} for name in cache["shards"]}}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_index_is_rebuilt(many_shards, tiny_metadata, damage):
    index_split(many_shards, "train", tiny_metadata)
    path = many_shards / "train" / INDEX_FILE
    whole = json.loads(path.read_text())
    path.write_text(DAMAGES[damage](whole))
    assert index_split(many_shards, "train", tiny_metadata).lengths.tolist() == [4 + i for i in range(36)]
    assert json.loads(path.read_text()) == whole


def test_read_only_folder_is_indexed(many_shards, tiny_metadata, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert len(index_split(many_shards, "train", tiny_metadata).lengths) == 36
    assert not (many_shards / "train" / INDEX_FILE).exists()


# metadata.json


def test_metadata_of_a_public_set(tmp_path):
    assert read_metadata(tmp_path) == PUBLIC_SET
    (tmp_path / METADATA_FILE).write_text('{"env": "coinrun", "anything": {"else": 1}}')
    metadata = read_metadata(tmp_path)
    assert metadata == PUBLIC_SET
    assert (metadata.environment, metadata.frame_shape) == ("coinrun", (64, 64, 3))
    assert metadata.actions == procgen_actions("coinrun")


def test_metadata_without_action_names(tmp_path):
    for values, expected in (
        ({"env": "maze"}, procgen_actions("maze")),
        ({"env": "maze", "num_actions": 4}, unnamed_actions(4)),
        ({"env": "tetris"}, unnamed_actions(15)),
        ({"env": "tetris", "num_actions": 6}, unnamed_actions(6)),
    ):
        (tmp_path / METADATA_FILE).write_text(json.dumps(values))
        assert read_metadata(tmp_path).actions == expected


def test_metadata_round_trip(tmp_path):
    metadata = Game(
        environment="pong",
        environment_options=(("simple", True), ("distribution_mode", "hard")),
        frame_shape=(8, 10, 3),
        fps=12.5,
        actions=ActionSpace(("noop", "up"), ((), ("UP",)), (0, 1)),
    )
    (tmp_path / METADATA_FILE).write_text(json.dumps(metadata.to_dict()))
    assert read_metadata(tmp_path) == metadata


def test_wide_frames_without_a_size_are_refused(tmp_path):
    """They have as many bytes as those of the public set, and would be read as 64x64."""
    frames, _ = play(20, width=128, height=32)
    write_shard(tmp_path / "train" / "a.array_record", [encode_record(Record(frames, np.zeros(20, np.int32)))])
    for text in (None, '{"env": "coinrun"}'):
        if text:
            (tmp_path / METADATA_FILE).write_text(text)
        with pytest.raises(ValueError, match=r'look like 32x128, not 64x64: write "frame_shape": \[32, 128, 3\]'):
            read_metadata(tmp_path)
    (tmp_path / METADATA_FILE).write_text('{"env": "coinrun", "frame_shape": [32, 128, 3]}')
    assert read_metadata(tmp_path).frame_shape == (32, 128, 3)
    square = Record(play(20, width=64, height=64)[0], np.zeros(20, np.int32))
    write_shard(tmp_path / "train" / "a.array_record", [encode_record(square)])
    (tmp_path / METADATA_FILE).unlink()
    assert read_metadata(tmp_path) == PUBLIC_SET


def test_full_disk_raises_os_error(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    payload = np.random.default_rng(0).bytes(100_000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(OSError, match="cannot be written"):
            write_shard(tmp_path / f"a{SUFFIX}", [payload] * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*tmp_path.iterdir()]
