"""Many recordings: splits, worker processes, interrupted imports."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from import_helpers import read_recording, vectors_from_speed, write_clips
from recordings import play, write_csv, write_video
from tiny import command, succeeded

from dreamrun.data.dataset_folder import JOURNAL_FILE
from dreamrun.data.importing import importer
from dreamrun.data.importing.importer import RecordingImporter, plan_splits
from dreamrun.data.index import split_shards
from dreamrun.data.metadata import read_metadata
from dreamrun.data.shards import ShardReader

ROOT = Path(__file__).parents[3]


def test_whole_recordings_are_held_out_if_there_are_enough():
    names = [f"clip{i}" for i in range(40)]
    plan = plan_splits(names)
    assert plan == plan_splits(names[::-1])
    assert [list(plan.values()).count(split) for split in ("train", "val", "test")] == [36, 2, 2]
    assert set(plan_splits(names[:9]).values()) == {None}
    given = plan_splits(["train/a", "val/b", "test/c", "train/d"])
    assert given == {"train/a": "train", "val/b": "val", "test/c": "test", "train/d": "train"}


def test_a_single_recording_is_divided_between_splits(recordings, run_import, tmp_path):
    write_clips(recordings, 1, num_frames=1000)
    metadata, _ = run_import(size="32x32")
    assert {split: counts["frames"] for split, counts in metadata["splits"].items()} == {
        "train": 700, "val": 150, "test": 150,
    }  # fmt: skip
    frames, actions = read_recording(tmp_path / "set")
    truth, speed = play(1000, 32, 32)
    wanted = vectors_from_speed(speed)
    wanted[:, 4] /= 20  # what was saved was in units of its own already
    assert np.array_equal(frames, truth) and actions == pytest.approx(wanted)
    records = split_shards(tmp_path / "set", "train")
    reader = ShardReader(records, read_metadata(tmp_path / "set"))
    assert [len(reader.read(0, n)) for n in range(reader.num_records(0))] == [160, 160, 160, 160, 60]


def test_an_interrupted_import_gives_the_same_files(recordings, run_import, tmp_path, monkeypatch):
    write_clips(recordings, 12)
    run_import(out=tmp_path / "complete")
    imported, original = [], RecordingImporter.import_recording

    def interrupted(self, source, partial, progress):
        if len(imported) == 5:
            original(self, source, partial, progress)  # its shards are there, but it is not in the journal
            raise KeyboardInterrupt
        imported.append(source.name)
        return original(self, source, partial, progress)

    monkeypatch.setattr(RecordingImporter, "import_recording", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_import(out=tmp_path / "set")
    assert (
        not (tmp_path / "set").exists() and len((tmp_path / "set.partial" / JOURNAL_FILE).read_text().splitlines()) == 5
    )
    with (tmp_path / "set.partial" / JOURNAL_FILE).open("a") as journal:
        journal.write('{"name": "clip9", "frames": 1, "splits": {}}\n')  # as it was before files were watched
        journal.write('{"name": "cl')  # killed while it was written
    monkeypatch.setattr(
        RecordingImporter, "import_recording", lambda *args: imported.append(args[1].name) or original(*args)
    )
    metadata, _ = run_import(out=tmp_path / "set")
    assert sorted(imported) == sorted(f"clip{i}" for i in range(12))
    files = [
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.array_record")}
        for out in (tmp_path / "complete", tmp_path / "set")
    ]
    assert files[0] == files[1] and len(files[0]) == 12
    assert not (tmp_path / "set.partial").exists() and not (tmp_path / "set" / JOURNAL_FILE).exists()
    assert metadata["splits"]["val"]["records"] == metadata["splits"]["test"]["records"] == 1


def test_a_recording_that_changed_is_imported_again(recordings, run_import, tmp_path, monkeypatch):
    frames, speed = play(60)
    for name in ("a", "b"):
        np.savez(recordings / f"{name}.npz", frames=frames)
        write_csv(recordings / f"{name}.csv", speed)
    original = RecordingImporter.import_recording
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            RecordingImporter, "import_recording", lambda *args: original(*args) if args[1].name == "a" else stop()
        )
        run_import()
    write_csv(recordings / "a.csv", -speed)
    run_import()
    truth = np.concatenate([vectors_from_speed(-speed), vectors_from_speed(speed)])
    assert sorted(map(tuple, read_recording(tmp_path / "set")[1])) == sorted(map(tuple, truth))


def stop():
    raise KeyboardInterrupt


def test_several_processes_make_the_same_files(recordings, run_import, tmp_path):
    write_clips(recordings, 5)
    frames = np.load(recordings / "clip2.npz")["frames"]
    np.savez(recordings / "clip2.npz", frames=frames)  # without actions
    for workers in (1, 3):
        metadata, reports = run_import(out=tmp_path / str(workers), workers=workers, min_frames_per_worker=1)
        assert [*metadata["recordings"]] == ["clip0", "clip1", "clip3", "clip4"] and len(reports) == 1
        assert [*metadata["skipped"]] == ["clip2"] and metadata["splits"]["val"]["records"] > 0
    one, three = (
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "1", tmp_path / "3")
    )
    assert one == three and len(one) > 4


def end_at_once(source):
    """As a process ends that the system kills for its memory."""
    os._exit(1)


def test_a_killed_worker_is_one_line_and_the_same_command_continues(recordings, run_import, tmp_path, monkeypatch):
    write_clips(recordings, 4)
    original = importer._import_in_worker
    monkeypatch.setattr(importer, "_import_in_worker", end_at_once)
    with pytest.raises(ValueError, match=r"a worker process was killed.*fewer workers"):
        run_import(workers=2, min_frames_per_worker=1)
    assert not (tmp_path / "set").exists()
    monkeypatch.setattr(importer, "_import_in_worker", original)
    assert len(run_import(workers=2, min_frames_per_worker=1)[0]["recordings"]) == 4


def test_other_settings_start_over(recordings, run_import, tmp_path, monkeypatch):
    write_clips(recordings, 2)
    monkeypatch.setattr(importer, "finish_partial", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_import(fit="pad")
    monkeypatch.undo()
    (tmp_path / "set.partial" / "train" / "left_over.array_record").write_text("")
    run_import(fit="stretch")
    assert not (tmp_path / "set" / "train" / "left_over.array_record").exists()


def test_a_killed_import_can_be_continued(recordings, tmp_path):
    """In a process of its own, with a video long enough to be killed in."""
    frames, speed = play(1000, 64, 64)
    for name in ("a", "b"):
        write_video(recordings / f"{name}.mp4", frames, 30)
        write_csv(recordings / f"{name}.csv", speed)
    call = [
        sys.executable,
        "-m",
        "scripts.import_video",
        "--videos",
        recordings,
        "--out",
        tmp_path / "set",
        "--fps",
        "30",
    ]
    process = subprocess.Popen([str(part) for part in call], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while (
        not (tmp_path / "set.partial" / JOURNAL_FILE).exists()
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert (tmp_path / "set.partial" / JOURNAL_FILE).exists() and not (tmp_path / "set").exists()
    again = subprocess.run([str(part) for part in call], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "2 recordings, 0 skipped" in again.stdout and not list((tmp_path / "set").rglob("*.tmp"))
    got, actions = read_recording(tmp_path / "set")
    assert len(got) == 2000 and actions[:, 4].sum() == pytest.approx(2 * speed.sum() / 20, abs=1e-2)


def test_memory_does_not_grow_with_length(recordings, run_import, monkeypatch):
    """At no time are there more frames than one record has."""
    write_clips(recordings, 1, num_frames=2000)
    held, add = [], importer.EpisodeWriter.add
    monkeypatch.setattr(
        importer.EpisodeWriter, "add", lambda self, *a: add(self, *a) or held.append(len(self._episode))
    )
    run_import(size="32x32")
    assert len(held) == 2000 and max(held) == 160


def test_metadata_stores_the_command_line(recordings, tmp_path, monkeypatch, capsys):
    write_clips(recordings, 2)
    out = tmp_path / "my set"
    options = ("--videos", recordings, "--out", out, "--min-frames", 1)
    succeeded(command(monkeypatch, capsys, "scripts.import_video", *options))
    values = json.loads((out / "metadata.json").read_text())
    assert values["command"] == (f"dreamrun import --videos {recordings} --out '{out}' --min-frames 1")
