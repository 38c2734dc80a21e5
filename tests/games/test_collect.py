"""Collecting: real play that can be replayed, the same files however it is made, and nothing half done."""

import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tiny import in_this_process, records_of, refused, succeeded

from dreamrun.data import collecting
from dreamrun.data.collecting import CollectConfig, collect, play
from dreamrun.data.episode_writer import MAX_RECORD_FRAMES
from dreamrun.data.index import split_shards
from dreamrun.data.metadata import METADATA_FILE, read_metadata
from dreamrun.data.recorded_game import replay_to
from dreamrun.data.records import Record
from dreamrun.data.shards import SUFFIX
from dreamrun.games.base import SPLIT_LEVELS
from dreamrun.games.factory import make_environment
from dreamrun.games.policies import POLICIES

SMALL = {"env": "pong", "records": 9, "val_records": 3, "test_records": 2, "workers": 1}


def ignore(num_frames: int) -> None:
    """No progress is shown."""


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a data set, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def in_process(monkeypatch):
    """Shards of four short records, collected here and one after another: quick, and a test can reach into it."""

    monkeypatch.setattr(collecting, "worker_pool", in_this_process)
    monkeypatch.setattr(collecting, "RECORDS_PER_SHARD", 4)
    monkeypatch.setattr(collecting, "MAX_RECORD_FRAMES", 40)


@pytest.fixture
def fail_at(monkeypatch):
    """fail_at(call): the shard of that number is the first that cannot be collected (None: all can)."""
    collect_shard = collecting.collect_shard

    def arrange(call):
        made = []

        def collect_or_fail(config, job, folder):
            if call is not None and len(made) >= call:
                raise OSError("disk full")
            made.append((job.split, job.number))
            return collect_shard(config, job, folder)

        monkeypatch.setattr(collecting, "collect_shard", collect_or_fail)
        return made

    return arrange


@pytest.fixture(scope="module")
def coinrun_set(tmp_path_factory):
    """24 records of easy, simple CoinRun."""
    out = tmp_path_factory.mktemp("sets") / "coinrun"
    collect(CollectConfig(out=out, records=24, val_records=2, test_records=0, simple=True, workers=1), ignore)
    return out


@pytest.fixture(params=["pong", "coinrun"])
def real_set(request):
    """Either data set."""
    return request.getfixturevalue(f"{request.param}_set")


# What is collected


def test_record_lengths_and_shapes(real_set):
    for record in records_of(real_set) + records_of(real_set, "val"):
        assert 32 <= len(record) <= MAX_RECORD_FRAMES and record.frames.shape[1:] == (64, 64, 3)
        assert len(record.actions) == len(record.rewards) == len(record)


def test_metadata_content(pong_set):
    values, metadata = json.loads((pong_set / METADATA_FILE).read_text()), read_metadata(pong_set)
    for split, num_records in (("train", 24), ("val", 4), ("test", 3)):
        records = records_of(pong_set, split)
        assert values["splits"][split] == {"records": len(records), "frames": sum(map(len, records))}
        assert len(records) == num_records
    assert (values["environment"], values["policy"], values["seed"], values["num_actions"]) == ("pong", "explore", 0, 3)
    assert metadata.actions == make_environment("pong", 1).actions
    assert metadata.frame_shape == (64, 64, 3) and metadata.fps == 15


def test_levels_of_the_splits_are_disjoint(pong_set):
    seeds = {split: {record.level_seed for record in records_of(pong_set, split)} for split in SPLIT_LEVELS}
    for split, (first, count) in SPLIT_LEVELS.items():
        assert seeds[split] and all(first <= seed < first + count for seed in seeds[split])
    assert not (seeds["train"] & seeds["val"] or seeds["train"] & seeds["test"] or seeds["val"] & seeds["test"])


def test_progress_counts_all_frames(tmp_path, in_process):
    frame_counts = []
    (tmp_path / "set").mkdir()  # an empty folder is used
    metadata = collect(CollectConfig(out=tmp_path / "set", **SMALL), frame_counts.append)
    assert len(frame_counts) == 3 + 1 + 1
    assert sum(frame_counts) == sum(counts["frames"] for counts in metadata["splits"].values())
    assert metadata == json.loads((tmp_path / "set" / METADATA_FILE).read_text())


def test_replay_to_any_frame(real_set):
    metadata = read_metadata(real_set)
    environment = make_environment(metadata.environment, 4, options=metadata.environment_options)
    played = play(environment, POLICIES["uniform"](environment, np.random.default_rng(0)))
    later = next(record for record in islice(played, 100) if record.start_step > 0)  # cut from a long episode
    assert later.start_step == len(later.prefix_actions) == MAX_RECORD_FRAMES
    for record in [*records_of(real_set)[:6], later]:
        for frame in (0, 1, len(record) // 2, len(record) - 1):
            environment, shown = replay_to(record, metadata, frame)
            assert np.array_equal(shown, record.frames[frame])
        assert environment.step(record.actions[-1:])[1] == record.rewards[-1:]
    with pytest.raises(ValueError, match="has no level seed"):
        replay_to(Record(record.frames, record.actions), metadata)


def test_play_continues_after_replay(coinrun_set):
    record = max(records_of(coinrun_set), key=len)
    environment, _ = replay_to(record, read_metadata(coinrun_set), 10)
    for step in range(10, len(record) - 1):
        frames, rewards, *_ = environment.step(record.actions[step : step + 1])
        assert np.array_equal(frames[0], record.frames[step + 1]) and rewards[0] == record.rewards[step]


def test_last_reward_is_recorded(coinrun_set):
    """CoinRun rewards nothing but the coin, with which the level ends."""
    records = records_of(coinrun_set)
    won = [record for record in records if record.rewards.any()]
    assert len(won) >= 5
    for record in won:
        assert record.terminal and record.rewards[-1] == 10 and not record.rewards[:-1].any()
    assert any(not record.terminal for record in records)


def test_parts_of_pong_episodes_add_up_to_three_points():
    environment, open_points, whole = make_environment("pong", 3, seed=4), {}, []
    policy = POLICIES["explore"](environment, np.random.default_rng(0))
    for record in islice(play(environment, policy, min_frames=1), 70):
        points, steps = open_points.pop(record.level_seed, (0.0, 0))
        assert record.start_step == steps  # parts of an episode come in order, without a gap
        points, steps = points + float(np.abs(record.rewards).sum()), steps + len(record)
        if record.terminal:
            whole.append((points, steps))
        elif steps < environment.max_steps:
            assert len(record) == MAX_RECORD_FRAMES
            open_points[record.level_seed] = points, steps
    assert len(whole) > 10 and {points for points, _ in whole} == {3.0}
    assert any(steps > MAX_RECORD_FRAMES for _, steps in whole) and any(steps < MAX_RECORD_FRAMES for _, steps in whole)


@pytest.mark.parametrize("min_frames", [1, 60, MAX_RECORD_FRAMES])
def test_min_frames(min_frames):
    environment = make_environment("pong", 4)
    records = play(environment, POLICIES["uniform"](environment, np.random.default_rng(0)), min_frames)
    lengths = [len(next(records)) for _ in range(20)]
    assert min(lengths) >= min_frames and max(lengths) == MAX_RECORD_FRAMES
    assert min_frames == MAX_RECORD_FRAMES or min(lengths) < MAX_RECORD_FRAMES


def test_only_short_episodes_raise(monkeypatch):
    monkeypatch.setattr(collecting, "MAX_SHORT_EPISODES", 5)
    environment = make_environment("pong", 4)
    environment.max_steps = 20
    records = play(environment, POLICIES["uniform"](environment, np.random.default_rng(0)), 32)
    with pytest.raises(ValueError, match="5 episodes in a row are shorter than min_frames 32"):
        next(records)


# The same files, however they are made


def test_files_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "RECORDS_PER_SHARD", 4)
    one, two = tmp_path / "one", tmp_path / "two"
    collect(CollectConfig(out=one, **SMALL), ignore)
    collect(CollectConfig(out=two, **{**SMALL, "workers": 2}), ignore)
    assert sorted(files_of(one)) == sorted(
        [METADATA_FILE, *(f"{name}{SUFFIX}" for name in ("test/data_0000", "val/data_0000"))]
        + [f"train/data_{number:04d}{SUFFIX}" for number in range(3)]
    )
    assert files_of(one) == files_of(two)
    assert [len(records_of(one, split)) for split in ("train", "val", "test")] == [9, 3, 2]


def test_seeds_and_shards_differ(tmp_path, in_process):
    collect(CollectConfig(out=tmp_path / "zero", **SMALL), ignore)
    collect(CollectConfig(out=tmp_path / "one", **SMALL, seed=1), ignore)
    seeds = {name: {record.level_seed for record in records_of(tmp_path / name)} for name in ("zero", "one")}
    assert not seeds["zero"] & seeds["one"]
    shards = [path.read_bytes() for path in split_shards(tmp_path / "zero", "train")]
    assert len(set(shards)) == len(shards) == 3


# What is in the way, and what goes wrong


def test_non_empty_folder_is_refused(tmp_path):
    out = tmp_path / "set"
    (out / "train").mkdir(parents=True)
    (out / "train" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="set is not empty: choose another out folder, or set overwrite to replace it"):
        collect(CollectConfig(out=out, **SMALL), ignore)
    assert files_of(tmp_path) == {"set/train/mine.txt": b"mine"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is "):
        collect(CollectConfig(out=tmp_path / "file", overwrite=True, **SMALL), ignore)
    assert (tmp_path / "file").read_text() == "mine"


def test_overwrite_replaces_the_folder_at_the_end(tmp_path, in_process, fail_at):
    out, fresh = tmp_path / "set", tmp_path / "fresh"
    collect(CollectConfig(out=out, **SMALL, seed=1), ignore)
    (out / "train" / f"more{SUFFIX}").write_text("of another program")
    before = files_of(out)
    fail_at(2)
    with pytest.raises(OSError, match="disk full"):
        collect(CollectConfig(out=out, **SMALL, overwrite=True), ignore)
    assert files_of(out) == before
    fail_at(None)
    collect(CollectConfig(out=out, **SMALL, overwrite=True), ignore)
    collect(CollectConfig(out=fresh, **SMALL), ignore)
    assert files_of(out) == files_of(fresh)
    assert {path.name for path in tmp_path.iterdir()} == {"set", "fresh"}


def test_interrupted_collection_is_continued_by_any_command_with_the_same_settings(tmp_path, in_process, fail_at):
    out, at_once = tmp_path / "set", tmp_path / "at_once"
    fail_at(2)
    with pytest.raises(OSError, match="disk full"):
        collect(CollectConfig(out=out, **SMALL), ignore, "the first command")
    assert not out.exists()
    partial = tmp_path / "set.partial"
    finished = list(partial.rglob(f"*{SUFFIX}"))
    assert len(finished) == 2
    metadata = json.loads((partial / METADATA_FILE).read_text())
    del metadata["collect"]["mouse"]  # the folder is older than the option
    (partial / METADATA_FILE).write_text(json.dumps(metadata))
    for path in finished:
        os.utime(path, ns=(1, 1))
    frame_counts = []
    fail_at(None)
    metadata = collect(CollectConfig(out=out, **SMALL), frame_counts.append, "another command")
    collect(CollectConfig(out=at_once, **SMALL), ignore, "another command")
    assert files_of(out) == files_of(at_once)
    assert sum(path.stat().st_mtime_ns == 1 for path in out.rglob(f"*{SUFFIX}")) == 2
    assert sum(frame_counts) == sum(counts["frames"] for counts in metadata["splits"].values())
    assert not partial.exists()


def test_partial_folder_of_other_settings_is_replaced(tmp_path, in_process, fail_at):
    fail_at(2)
    with pytest.raises(OSError):
        collect(CollectConfig(out=tmp_path / "set", **SMALL, seed=1), ignore)
    fail_at(None)
    for out in ("set", "fresh"):
        collect(CollectConfig(out=tmp_path / out, **SMALL), ignore)
    assert files_of(tmp_path / "set") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize("text", ["", '{"collect": {', "null", "[]"])
def test_partial_folder_with_damaged_metadata_is_replaced(tmp_path, in_process, text):
    out, partial = tmp_path / "set", tmp_path / "set.partial"
    partial.mkdir()
    (partial / METADATA_FILE).write_text(text)
    (partial / "train").mkdir()
    (partial / "train" / f"left_over{SUFFIX}").write_text("")
    collect(CollectConfig(out=out, **SMALL), ignore)
    assert len(records_of(out)) == 9
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "mine").write_text("mine")
    with pytest.raises(ValueError, match=r"set.partial is in the way and is not deleted, because it holds mine"):
        collect(CollectConfig(out=out, **SMALL, overwrite=True), ignore)
    assert (tmp_path / "set.partial" / "mine").exists()


def test_ctrl_c_finishes_started_shards(tmp_path, monkeypatch):
    """With real worker processes: the first shard's progress is interrupted, the shards already begun are finished."""
    monkeypatch.setattr(collecting, "RECORDS_PER_SHARD", 2)
    config = CollectConfig(out=tmp_path / "set", **{**SMALL, "records": 40})

    def interrupt(num_frames):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(config, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["set.partial"]
    names = {path.name for path in (tmp_path / "set.partial" / "train").iterdir()}
    assert 1 <= len(names) < 20 and all(name.endswith(SUFFIX) for name in names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "tetris"}, "unknown environment 'tetris': choose pong or"),
        ({"env": "coinrun", "distribution_mode": "extreme"}, "distribution_mode is 'extreme'"),
        ({"policy": "clever"}, "policy is 'clever'"),
        ({"records": -1}, "records is -1: expected an integer of at least 0"),
        ({"val_records": -1}, "val_records is -1"),
        ({"test_records": -1}, "test_records is -1"),
        ({"records": 0, "val_records": 0, "test_records": 0}, "nothing to collect"),
        ({"min_frames": 0}, "min_frames is 0: expected an integer from 1 to 160"),
        ({"min_frames": 161}, "min_frames is 161"),
        ({"workers": 0}, "workers is 0: expected an integer of at least 1"),
        ({"seed": -1}, "seed is -1: expected an integer from 0"),
    ],
)
def test_bad_settings_write_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        collect(CollectConfig(out=tmp_path / "set", **{**SMALL, **changes}), ignore)
    assert list(tmp_path.iterdir()) == []


# The command line


def test_the_command_says_what_it_made_stores_itself_and_refuses_to_overwrite(tmp_path, in_process, run_script):
    options = ("--env", "pong", "--out", tmp_path / "my set", "--records", 4, "--val-records", 0, "--test-records", 0)
    out = succeeded(run_script("collect", *options))
    assert "train: 4 records" in out and "frames/s" in out and "bytes per frame" in out
    values = json.loads((tmp_path / "my set" / METADATA_FILE).read_text())
    words = f"--env pong --out '{tmp_path / 'my set'}' --records 4 --val-records 0 --test-records 0"
    assert values["command"] == f"dreamrun collect {words}"
    before = files_of(tmp_path)
    refused(run_script("collect", *options, "--seed", 1), "set is not empty", "overwrite")
    assert files_of(tmp_path) == before
