"""Damaged recordings and wrong settings are reported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from import_helpers import read_recording, vectors_from_speed, write_clips
from PIL import Image
from recordings import play, write_csv, write_video
from tiny import refused, succeeded

from dreamrun.data.dataset_folder import JOURNAL_FILE


@pytest.fixture
def import_command(run_script, recordings, tmp_path):
    """import_command(*options): import the recordings into a folder `set`; exit code, standard output, error."""
    return lambda *options: run_script("import_video", "--videos", recordings, "--out", tmp_path / "set", *options)


def test_bad_recordings_are_named_skipped_and_counted(recordings, tmp_path, import_command):
    frames, speed = play(200)
    names = "good1 good2 broken cut no_actions short_actions unknown_key not_a_number clock"
    for name in names.split():
        write_video(recordings / f"{name}.mp4", frames, 20)
        write_csv(recordings / f"{name}.csv", speed)
    (recordings / "broken.mp4").write_bytes(b"not a video at all")
    data = (recordings / "cut.mp4").read_bytes()
    (recordings / "cut.mp4").write_bytes(data[: len(data) // 2])
    (recordings / "no_actions.csv").unlink()
    write_csv(recordings / "short_actions.csv", speed[:50])
    (recordings / "unknown_key.csv").write_text("keys\n" + "q\n" * 200)
    (recordings / "not_a_number.csv").write_text("dx\n" + "much\n" * 200)
    write_csv(recordings / "clock.csv", speed, np.arange(200) * 50)  # milliseconds
    (recordings / "sound.mp4").write_bytes(b"")
    np.savez(recordings / "flat.npz", frames=np.zeros((5, 5), np.uint8), actions=np.zeros((5, 6)))
    (recordings / "damaged.npz").write_bytes(b"PK not a zip")
    out = succeeded(import_command())
    assert "2 recordings, 10 skipped" in out
    lines = {line.split(": ", 1)[0]: line for line in out.splitlines() if line.startswith("skipped")}
    expected = {
        "broken.mp4": "cannot be read", "cut.mp4": "cannot be read", "sound.mp4": "cannot be read",
        "no_actions.mp4": "no actions beside it (no_actions.csv, no_actions.jsonl, no_actions.npz)",
        "short_actions.mp4": "short_actions.csv has 50 actions for 200 pictures",
        "unknown_key.mp4": "unknown_key.csv, line 2: unknown key or column 'q': actions.toml knows left, right, jump",
        "clock.mp4": "clock.csv: 199 of its 200 times are outside of the video, 0 to 10.0 seconds after",
        "not_a_number.mp4": "not_a_number.csv, line 2: dx is 'much': expected a number",
        "flat.npz": "expected uint8 (frames, height, width, 3)", "damaged.npz": "cannot be read",
    }  # fmt: skip
    for name, words in expected.items():
        assert words in lines[f"skipped {recordings / name}"], lines
    assert set(json.loads((tmp_path / "set" / "metadata.json").read_text())["skipped"]) == {
        Path(name).stem for name in expected
    }
    shards = [*(tmp_path / "set").rglob("*.array_record")]
    assert sorted((path.parent.name, path.name.split("-")[0]) for path in shards) == [
        ("train", "good1"), ("val", "good2"),
    ]  # fmt: skip


def test_a_truncated_video_is_skipped(recordings, run_import, tmp_path):
    """Either it is decoded to its end or it is left out; half of it never stays."""
    frames, speed = play(400)
    for name in ("a", "b"):
        write_video(recordings / f"{name}.avi", frames, 20, "mpeg4")
        write_csv(recordings / f"{name}.csv", speed)
    data = bytearray((recordings / "a.avi").read_bytes())
    data = data[: len(data) // 3]
    (recordings / "a.avi").write_bytes(data)
    metadata, reports = run_import()
    assert len(reports) == 1 and "a.avi" in reports[0] and list(metadata["recordings"]) == ["b"]
    assert len(read_recording(tmp_path / "set")[0]) == 400


def one_clip(toml: str | None = None, num_frames: int = 30):
    """Makes a folder with one recording, and perhaps another actions.toml."""

    def make(folder: Path) -> None:
        write_clips(folder, 1, num_frames)
        if toml is not None:
            (folder / "actions.toml").write_text(toml)

    return make


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda d: None, (), ("nothing to import",)),
        (lambda d: (d / "a.mp4").write_bytes(b"no"), (), ("no recording in", "could be imported", "cannot be read")),
        (lambda d: shutil.rmtree(d), (), ("no folder at",)),
        (lambda d: (write_clips(d, 1), (d / "actions.toml").unlink()), (), ("describe", "actions to none")),
        (one_clip("[buttons"), (), ("is invalid",)),
        (one_clip("a=1"), (), ("unknown keys a",)),
        (one_clip(""), (), ("give either [actions]", "or [buttons]")),
        (one_clip("[axes]\nx=0"), (), ("must be positive",)),
        (one_clip('[axes]\nx={kind="speed"}'), (), ("a kind, motion or position",)),
        (one_clip("[buttons]\na={threshold=0}"), (), ("thresholds of buttons are",)),
        (one_clip('[buttons]\na="A"\nignored=["*"]'), (), ("ignored is inside a table: move it above the first",)),
        (one_clip('ignored="F3"\n[buttons]\na="A"'), (), ("ignored is 'F3': expected a list",)),
        (one_clip('[buttons]\naction="A"'), (), ("'action' cannot be a button or axis",)),
        (one_clip(num_frames=3), ("--min-frames", 8), ("only 3 frames",)),
        (one_clip(), ("--size", "big"), ("size is 'big': expected width x height",)),
        (one_clip(), ("--size", "9600x6400"), ("size is '9600x6400': frames are at most",)),
        (one_clip(), ("--fps", 0), ("fps is 0",)),
        (lambda d: (write_clips(d, 1), (d / "clip0.gif").write_bytes(b"")), (), ("have the same name",)),
    ],
)
def test_import_mistakes(recordings, tmp_path, import_command, make, options, words):
    make(recordings)
    refused(import_command(*options), *words)
    assert not (tmp_path / "set").exists()


def test_damaged_files_do_not_stop_the_others(recordings, run_import):
    """Each of these is reports of, and left out; only one has something wrong with its name."""
    frames, speed = play(60)
    np.savez(recordings / "good.npz", frames=frames, actions=vectors_from_speed(speed))
    (recordings / "shots").mkdir()
    for i in range(20):
        Image.fromarray(frames[i]).save(recordings / "shots" / f"x_f{i}_a1.png")
    path = recordings / "shots" / "x_f7_a1.png"
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT")
    data[at - 4 : at + 60] = bytes(64)
    path.write_bytes(data)
    np.savez_compressed(recordings / "packed.npz", frames=frames, actions=vectors_from_speed(speed))
    data = bytearray((recordings / "packed.npz").read_bytes())
    data[2000:2400] = bytes(400)
    (recordings / "packed.npz").write_bytes(data)
    write_video(recordings / "clip.mp4", frames)
    (recordings / "clip.npz").write_bytes(b"")
    np.save(recordings / "other.npy", frames)
    (recordings / "other.npy").rename(recordings / "other.npz")
    (recordings / "nothing.ts").mkdir()
    metadata, reports = run_import()
    assert list(metadata["recordings"]) == ["good"] and set(metadata["skipped"]) == {"shots", "packed", "clip", "other"}
    assert "x_f7_a1.png cannot be read" in metadata["skipped"]["shots"]
    assert metadata["skipped"]["clip"].startswith("clip.npz") and len(reports) == 4


def test_a_skipped_recording_does_not_set_the_frame_rate(recordings, run_import):
    frames, speed = play(60)
    write_video(recordings / "clip.mp4", frames, 20)
    write_csv(recordings / "clip.csv", speed)
    write_video(recordings / "note.gif", frames[:4], 1, "gif")
    metadata, reports = run_import()
    assert metadata["fps"] == 20 and len(reports) == 1


def test_recordings_are_never_replaced(recordings, tmp_path, import_command):
    write_clips(recordings, 1)
    for out in (recordings, tmp_path):
        refused(import_command("--out", out, "--overwrite"), "is inside", "would be replaced")
    assert (recordings / "clip0.npz").exists()


def test_a_link_to_another_disk_stays_a_link(recordings, run_import, tmp_path):
    write_clips(recordings, 1)
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "disk")
    run_import()
    assert (tmp_path / "set").is_symlink() and (tmp_path / "disk" / "metadata.json").is_file()
    assert not [*tmp_path.glob("*.partial")] and not (tmp_path / "disk" / JOURNAL_FILE).exists()


def test_recordings_for_validation_alone(recordings, tmp_path, import_command):
    (recordings / "val").mkdir()
    write_clips(recordings / "val", 1)
    assert "val: 1 records" in succeeded(import_command())


def test_a_folder_that_is_not_empty_is_replaced_only_with_overwrite(recordings, tmp_path, import_command):
    write_clips(recordings, 2)
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "train" / "old.array_record").write_text("")
    refused(import_command(), "is not empty", "overwrite")
    (tmp_path / "set" / "precious").write_text("")
    refused(import_command("--overwrite"), "set is not replaced, because it holds precious")
    (tmp_path / "set" / "precious").unlink()
    assert import_command("--overwrite")[0] == 0
    assert not (tmp_path / "set" / "train" / "old.array_record").exists()
