"""Recordings of any game: every kind of video, every spelling of actions, and whatever can be wrong with them."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from recordings import DESCRIBED, play, turn, write_csv, write_jsonl, write_video
from tiny import CONTROLS, assert_one_line, command

from data.importing import importer
from data.importing import sources as recordings_of
from data.importing import recording_importer
from data.importing.config import ImportVideoConfig
from data.importing.description import read_description
from data.importing.importer import Importer
from data.importing.journal import JOURNAL_FILE
from data.importing.recording_importer import RecordingImporter
from data.importing.resampling import pictures_at_ticks, resample_actions
from data.importing.sources import find_sources, frame_times
from data.importing.splits import plan_splits
from data.index import split_shards
from data.metadata import read_metadata
from data.shards import ShardReader

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    """Where recordings lie, with an actions.toml of four buttons and two axes."""
    videos = tmp_path / "recordings"
    videos.mkdir()
    (videos / "actions.toml").write_text(DESCRIBED)
    return videos


@pytest.fixture
def importing_of(folder, tmp_path):
    """importing_of(**options): what is in the folder, 96x64 unless told otherwise; metadata, and what was told."""

    def run(**options):
        told = []
        config = ImportVideoConfig(
            **{"videos": folder, "out": tmp_path / "set", "size": "96x64", "min_frames": 1, **options}
        )
        return Importer(config, told.append).run(lambda _: None), told

    return run


def whole(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames and actions of a single recording, put together again."""
    frames, actions = [], []
    for split in ("train", "val", "test"):
        if (out / split).is_dir():
            paths = split_shards(out, split)
            reader = ShardReader(paths, read_metadata(out))
            for shard in range(len(paths)):
                records = [reader.read(shard, number) for number in range(reader.num_records(shard))]
                frames += [record.frames for record in records]
                actions += [record.actions for record in records]
    return np.concatenate(frames), np.concatenate(actions)


def vectors_of(speed: np.ndarray) -> np.ndarray:
    """What `write_csv` means."""
    zeros = np.zeros(len(speed))
    return np.stack([speed < 0, speed > 0, zeros, zeros, speed / 20, zeros], axis=1).astype(np.float32)


def psnr(truth: np.ndarray, frames: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(truth.astype(float) - frames).mean())


# Pictures


@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "least"),
    [
        (".mp4", "libx264", True, 25),
        (".mkv", "libx265", False, 23),
        (".webm", "libvpx-vp9", False, 22),
        (".avi", "mpeg4", False, 22),
        (".mov", "mjpeg", False, 25),
        (".mkv", "ffv1", False, 40),
        (".gif", "gif", False, 15),
    ],
)
def test_videos_come_within_codec_error(folder, importing_of, tmp_path, suffix, codec, sound, least):
    frames, speed = play(120)
    write_video(folder / f"clip{suffix}", frames, 20, codec, sound=sound)
    write_csv(folder / "clip.csv", speed)
    metadata, told = importing_of()
    assert not told and metadata["fps"] == 20 and metadata["frame_shape"] == [64, 96, 3]
    got, actions = whole(tmp_path / "set")
    assert np.array_equal(actions, vectors_of(speed))
    assert got.shape == frames.shape and psnr(frames, got) > least
    with av.open(str(folder / f"clip{suffix}")) as container:
        assert np.array_equal(got, [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read_metadata(tmp_path / "set").actions == read_description(folder / "actions.toml").space


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos_are_turned(folder, importing_of, tmp_path, degrees):
    frames, _ = play(40)
    stored = np.rot90(frames, degrees // 90, axes=(1, 2))  # anticlockwise, so that turned clockwise it is right
    write_video(folder / "clip.mp4", np.ascontiguousarray(stored), 20)
    turn(folder / "clip.mp4", degrees)
    importing_of(actions="none")
    assert psnr(frames, whole(tmp_path / "set")[0]) > 25


@pytest.mark.parametrize(("width", "height"), [(97, 65), (95, 63), (31, 203)])
def test_odd_sizes(folder, importing_of, tmp_path, width, height):
    frames, _ = play(20, width, height)
    write_video(folder / "clip.mp4", frames, 20)
    importing_of(actions="none", size="32x40", fit="stretch")
    got, _ = whole(tmp_path / "set")
    wanted = [np.asarray(Image.fromarray(f).resize((32, 40), Image.Resampling.BOX)) for f in frames]
    assert got.shape == (20, 40, 32, 3) and psnr(np.stack(wanted), got) > 18


@pytest.mark.parametrize(("fit", "inside"), [("crop", (0, 64)), ("pad", (16, 48))])
def test_other_shapes_are_cropped_or_padded(folder, importing_of, tmp_path, fit, inside):
    frames, _ = play(20, width=128, height=64)
    write_video(folder / "clip.mp4", frames, 20)
    importing_of(actions="none", size="64x64", fit=fit)
    got, _ = whole(tmp_path / "set")
    top, bottom = inside
    assert got[:, :top].max(initial=0) < 8 and got[:, bottom:].max(initial=0) < 8
    small = [np.asarray(Image.fromarray(f).resize((64, 32), Image.Resampling.BOX)) for f in frames]
    wanted = frames[:, :, 32:96] if fit == "crop" else np.stack(small)
    assert psnr(wanted, got[:, top:bottom]) > 22


def test_variable_frame_rate_goes_by_time_stamps(folder, importing_of, tmp_path):
    """The picture is that of its moment, and an action counts when it was taken."""
    rng = np.random.default_rng(0)
    stamps = np.cumsum(rng.choice([20, 40, 100, 150], 200))
    stamps -= stamps[0]
    frames, speed = play(200)
    write_video(folder / "clip.mkv", frames, 20, stamps_ms=stamps)
    write_csv(folder / "clip.csv", speed)
    importing_of(fps=10)
    got, actions = whole(tmp_path / "set")
    moments = np.arange(len(got)) * 100
    shown = np.searchsorted(stamps, moments + 10, side="right") - 1
    assert len(got) == stamps[-1] // 100 + 1 or len(got) == stamps[-1] // 100 + 2
    assert psnr(frames[shown], got) > 25
    # Every press is there, and nothing that was not pressed about then.
    for column, sign in ((0, -1), (1, 1)):
        for stamp in stamps[np.sign(speed) == sign]:
            at = min(int(stamp // 100), len(actions) - 1)
            assert actions[max(0, at - 1) : at + 2, column].any()
        for tick in np.flatnonzero(actions[:, column]):
            near = (stamps > tick * 100 - 160) & (stamps < tick * 100 + 110)
            assert (np.sign(speed[near]) == sign).any()
    assert actions[:, 4].sum() == pytest.approx(speed.sum() / 20, abs=1e-3)


def test_folders_of_pictures_with_a_byte_of_buttons_in_their_names(folder, importing_of, tmp_path):
    """As the published play of Super Mario Bros. names them: palettes, memory behind the picture, no leading zeros."""
    frames, _ = play(30)
    frames = np.repeat(frames[..., :1], 3, axis=3)  # of few colours
    values = {"select": 1, "down": 2, "right": 4, "start": 8, "b": 16, "left": 32, "up": 64, "a": 128}
    bytes_held = np.random.default_rng(0).integers(0, 256, 30)
    run = "Rafael_dp2a9j4i_e0_1-1"
    (folder / f"{run}_win").mkdir()
    for i, (frame, held) in enumerate(zip(frames, bytes_held, strict=True)):
        path = folder / f"{run}_win" / f"{run}_f{i + 1}_a{held}_2019-04-13_20-13-{i // 15:02d}.win.png"
        Image.fromarray(frame).quantize(256).save(path)
        with path.open("ab") as file:
            file.write(b"tEXtRAM\0" + bytes(2048))
    metadata, told = importing_of(describe=ROOT / "docs" / "actions" / "nes.toml", source_fps=15)
    assert not told and metadata["fps"] == 15
    got, actions = whole(tmp_path / "set")
    assert np.array_equal(got, frames)
    held = dict(zip(metadata["action_names"], actions.T, strict=True))
    assert held.keys() == values.keys()
    assert all(np.array_equal(held[name], (bytes_held & value) > 0) for name, value in values.items())


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_come_bit_by_bit(folder, importing_of, tmp_path, compressed):
    """DMLab's way: `video` and ids in one .npz."""
    (folder / "actions.toml").write_text('[actions]\nleft=["LEFT"]\nright=["RIGHT"]\nforward=["UP"]\n')
    frames, _ = play(170)
    ids = np.random.default_rng(0).integers(0, 3, 170)
    (np.savez_compressed if compressed else np.savez)(folder / "clip.npz", video=frames, actions=ids)
    importing_of()
    got, actions = whole(tmp_path / "set")
    assert np.array_equal(got, frames) and np.array_equal(actions, ids) and actions.dtype == np.int32


def test_contractors_play_of_minecraft(folder, importing_of, tmp_path):
    """A line of JSON a frame, as VPT's recordings have it, with the faults of its recorder."""
    frames, _ = play(40)
    write_video(folder / "clip.mp4", frames, 20)
    number = np.arange(40)
    down = (number < 10) | (number % 2 == 1)  # stuck until the press at 11
    lines = [
        {
            "mouse": {"x": 640.0, "y": 360.0, "dx": float(i), "dy": -2.0, "scaledX": 0.0, "scaledY": 0.0, "dwheel": 0.0,
                      "buttons": [0] * int(down[i]), "newButtons": [0] * (i in (0, 11, 13))},
            "keyboard": {"keys": ["key.keyboard.w", "key.keyboard.f3"][: 2 * (i % 3 == 0)], "newKeys": [], "chars": ""},
            "hotbar": 0 if i < 30 else 3, "tick": i, "isGuiOpen": False, "milli": 50 * i, "inventory": [], "yaw": 0.0,
        }
        for i in range(40)
    ]  # fmt: skip
    write_jsonl(folder / "clip.jsonl", lines)
    assert not importing_of(describe=ROOT / "docs" / "actions" / "minecraft.toml")[1]
    _, actions = whole(tmp_path / "set")
    space = read_metadata(tmp_path / "set").actions
    held = dict(zip(space.names, actions.T, strict=True))
    assert np.array_equal(held["forward"], number % 3 == 0)
    assert np.array_equal(held["attack"], (number > 10) & down)
    assert np.array_equal(held["hotbar4"], number == 30) and not held["hotbar1"].any()
    scale = space.scales[space.index("camera_x")]
    assert held["camera_x"] == pytest.approx(number / scale) and (held["camera_y"] == np.float32(-2 / scale)).all()


# Actions


def test_presses_shorter_than_a_frame_survive():
    """Rows at 200 a second, ticks at 10: buttons are or-ed, motion is summed, nothing counts twice."""
    rng = np.random.default_rng(0)
    times, rows = np.arange(1000) / 200, np.zeros((1000, 6), np.float32)
    presses = rng.choice(1000, 40, replace=False)
    rows[presses, 2] = 1
    rows[:, 4:] = rng.normal(size=(1000, 2))
    held = resample_actions(times, rows, CONTROLS, 50, 10.0)
    assert np.array_equal(held[:, 2], np.isin(np.arange(50), presses // 20))
    assert held[:, 4:] == pytest.approx(rows[:, 4:].reshape(50, 20, 2).sum(1), abs=1e-4)


def test_what_is_held_stays_until_the_next_row_and_axes_rest():
    times = np.array([0.02, 0.51, 1.28])
    rows = np.stack([CONTROLS.parse(name) for name in ("left+dx", "right", "noop")])
    held = resample_actions(times, rows, CONTROLS, 15, 10.0)
    assert np.flatnonzero(held[:, 0]).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(held[:, 1]).tolist() == [5, 6, 7, 8, 9, 10, 11, 12]  # let go at the end of tick 12
    assert np.flatnonzero(held[:, 4]).tolist() == [0]


def test_rates_that_jitter_keep_every_row_to_itself():
    rng = np.random.default_rng(0)
    speed = rng.integers(-1, 2, 500)
    for fps in (15, 29.97, 60):
        times = np.round(np.arange(500) / fps, 3) + rng.choice([0, 0.001], 500)
        times[0] = 0
        assert np.array_equal(pictures_at_ticks(times, fps), np.arange(500))
        assert np.array_equal(resample_actions(times, vectors_of(speed), CONTROLS, 500, fps), vectors_of(speed))


def test_of_ids_the_one_that_does_something_counts(tmp_path):
    (tmp_path / "a.toml").write_text('stand_still=["noop"]\n[actions]\nnoop=[]\nleft="LEFT"\nright="RIGHT"\n')
    space = read_description(tmp_path / "a.toml").space
    assert space.noop == 0 and space.acting == (0, 1, 2) and space.keys == ((), ("LEFT",), ("RIGHT",))
    ids = np.array([0, 0, 1, 0, 2, 2, 1, 0, 0, 0, 0, 0])
    assert resample_actions(np.arange(12) / 40, ids, space, 4, 10.0).tolist() == [1, 2, 0, 0]
    assert resample_actions(np.array([0.2]), np.array([2]), space, 5, 10.0).tolist() == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("kind", ["keys", "key list", "time", "frame", "ids", "names", "vectors", "npz", "bits"])
def test_spellings_of_actions(folder, importing_of, tmp_path, kind):
    frames, speed = play(60)
    write_video(folder / "clip.mp4", frames, 20)
    vectors = vectors_of(speed)
    held = [["a"] if v < 0 else ["Right"] if v > 0 else [] for v in speed]
    if kind == "keys":
        (folder / "clip.csv").write_text(
            "keys,dx\n" + "".join(f"{' + '.join(k)}+F3,{v}\n" for k, v in zip(held, speed, strict=True))
        )
    elif kind == "key list":
        write_jsonl(folder / "clip.jsonl", [{"keys": k, "dx": int(v)} for k, v in zip(held, speed, strict=True)])
    elif kind == "time":
        write_csv(folder / "clip.csv", speed, np.arange(60) / 20)
    elif kind == "frame":
        rows = [{"frame": i, "dx": int(v), "left": int(v < 0), "right": int(v > 0)} for i, v in enumerate(speed)]
        write_jsonl(folder / "clip.jsonl", rows[::-1])
    elif kind in ("ids", "names"):
        (folder / "actions.toml").write_text('[actions]\n"left"="LEFT"\nstay=[]\n"right"="RIGHT"\n')
        names = np.array(["left", "noop", "Right"])[np.sign(speed) + 1] if kind == "names" else np.sign(speed) + 1
        (folder / "clip.csv").write_text("action\n" + "".join(f"{name}\n" for name in names))
        vectors = np.sign(speed) + 1
    elif kind == "vectors":
        write_jsonl(folder / "clip.jsonl", [{"action": (v * CONTROLS.scales).tolist()} for v in vectors])
    elif kind == "npz":
        np.savez(folder / "clip.npz", actions=vectors * np.array(CONTROLS.scales))
    else:
        (folder / "clip.csv").write_text(
            "buttons,dx\n" + "".join(f"{int(v < 0) + 2 * int(v > 0)},{v}\n" for v in speed)
        )
    assert not importing_of()[1]
    assert whole(tmp_path / "set")[1] == pytest.approx(vectors)


ONE_AT_A_TIME = '[actions]\nstay=[]\ngo_left="LEFT"\ngo_right="RIGHT"\n[recorded]\n"key.left"="Go_Left"\n'
TOGETHER = 'ignored=["F3"]\n[buttons]\nLeft="A"\nsneak="SHIFT"\n[axes]\ndx=20\n[recorded]\n"key.left"="LEFT"\n'


@pytest.mark.parametrize(
    ("described", "fields", "meant"),
    [
        (ONE_AT_A_TIME, {"keys": "right"}, 2),
        (ONE_AT_A_TIME, {"keys": ["D"]}, 2),  # W A S D are arrows, where they mean nothing of their own
        (ONE_AT_A_TIME, {"keys": "key.left"}, 1),
        (ONE_AT_A_TIME, {"keys": "go_right"}, 2),
        (ONE_AT_A_TIME, {"keys": ""}, 0),
        (ONE_AT_A_TIME, {"keys": "nonsense"}, "unknown key or column 'nonsense'"),
        (ONE_AT_A_TIME, {"keys": "left", "dx": "3"}, "unknown key or column 'dx'"),
        (ONE_AT_A_TIME, {"buttons": "1"}, "neither action nor keys"),
        ('ignored=["*"]\n' + ONE_AT_A_TIME, {"keys": "left+nonsense", "dx": "3"}, 1),
        (TOGETHER, {"keys": "key.left + F3"}, [1, 0, 0]),
        ('ignored=["*"]\n' + TOGETHER.partition("\n")[2], {"keys": "key.left"}, [1, 0, 0]),
        (TOGETHER, {"keys": "left shift"}, "unknown key or column 'left shift'"),
        (TOGETHER, {"action": "sneak", "dx": 40}, [0, 1, 2]),
        (TOGETHER, {"action": [255, 0, -20]}, [1, 0, -1]),
    ],
)
def test_a_row_means_what_is_described_or_nothing(tmp_path, described, fields, meant):
    (tmp_path / "actions.toml").write_text(described)
    description = read_description(tmp_path / "actions.toml")
    if isinstance(meant, str):
        with pytest.raises(ValueError, match=meant):
            description.action(fields)
    else:
        assert np.asarray(description.action(fields)).tolist() == meant


def test_arrays_that_tell_their_times(folder, importing_of, tmp_path):
    frames, speed = play(60, 96, 64)
    np.savez(
        folder / "clip.npz", frames=frames, actions=vectors_of(speed) * CONTROLS.scales, time=5 + np.arange(60) / 30
    )
    metadata, told = importing_of(fps=30)
    assert not told and metadata["fps"] == 30
    found = whole(tmp_path / "set")
    assert (found[0] == frames).all() and found[1] == pytest.approx(vectors_of(speed))
    write_video(folder / "clip.mp4", frames, 20)
    order = np.arange(60)[::-1]
    np.savez(folder / "clip.npz", actions=(vectors_of(speed) * CONTROLS.scales)[order], frame=order)
    assert not importing_of(overwrite=True)[1]
    assert whole(tmp_path / "set")[1] == pytest.approx(vectors_of(speed))


def test_a_table_of_pandas_with_its_numbers_of_rows(folder, importing_of, tmp_path):
    frames, speed = play(60)
    write_video(folder / "clip.mp4", frames, 20)
    write_csv(folder / "clip.csv", speed)
    lines = (folder / "clip.csv").read_text().splitlines()
    numbered = [f",{lines[0]}", *(f"{i},{line}" for i, line in enumerate(lines[1:]))]
    (folder / "clip.csv").write_text("\n".join(numbered))
    assert not importing_of()[1]
    assert whole(tmp_path / "set")[1] == pytest.approx(vectors_of(speed))


# Many recordings


def write_clips(folder: Path, count: int, num_frames: int = 30) -> None:
    for i in range(count):
        frames, speed = play(num_frames, 32, 32, seed=i)
        np.savez(folder / f"clip{i}.npz", frames=frames, actions=vectors_of(speed))


def test_splits_are_of_whole_recordings_where_there_are_enough():
    names = [f"clip{i}" for i in range(40)]
    plan = plan_splits(names)
    assert plan == plan_splits(names[::-1])
    assert [list(plan.values()).count(split) for split in ("train", "val", "test")] == [36, 2, 2]
    assert set(plan_splits(names[:9]).values()) == {None}
    given = plan_splits(["train/a", "val/b", "test/c", "train/d"])
    assert given == {"train/a": "train", "val/b": "val", "test/c": "test", "train/d": "train"}


def test_a_single_recording_is_cut_into_stretches(folder, importing_of, tmp_path):
    write_clips(folder, 1, num_frames=1000)
    metadata, _ = importing_of(size="32x32")
    assert {split: counts["frames"] for split, counts in metadata["splits"].items()} == {
        "train": 700, "val": 150, "test": 150,
    }  # fmt: skip
    frames, actions = whole(tmp_path / "set")
    truth, speed = play(1000, 32, 32)
    wanted = vectors_of(speed)
    wanted[:, 4] /= 20  # what was saved was in units of its own already
    assert np.array_equal(frames, truth) and actions == pytest.approx(wanted)
    records = split_shards(tmp_path / "set", "train")
    reader = ShardReader(records, read_metadata(tmp_path / "set"))
    assert [len(reader.read(0, n)) for n in range(reader.num_records(0))] == [160, 160, 160, 160, 60]


def test_the_same_files_come_out_whenever_and_after_a_stop(folder, importing_of, tmp_path, monkeypatch):
    write_clips(folder, 12)
    importing_of(out=tmp_path / "whole")
    imported, original = [], RecordingImporter.import_recording

    def interrupted(self, source, partial, progress):
        if len(imported) == 5:
            original(self, source, partial, progress)  # its shards are there, but it is not in the journal
            raise KeyboardInterrupt
        imported.append(source.name)
        return original(self, source, partial, progress)

    monkeypatch.setattr(RecordingImporter, "import_recording", interrupted)
    with pytest.raises(KeyboardInterrupt):
        importing_of(out=tmp_path / "set")
    assert (
        not (tmp_path / "set").exists() and len((tmp_path / "set.partial" / JOURNAL_FILE).read_text().splitlines()) == 5
    )
    with (tmp_path / "set.partial" / JOURNAL_FILE).open("a") as journal:
        journal.write('{"name": "clip9", "frames": 1, "splits": {}}\n')  # as it was before files were watched
        journal.write('{"name": "cl')  # killed while it was written
    monkeypatch.setattr(
        RecordingImporter, "import_recording", lambda *args: imported.append(args[1].name) or original(*args)
    )
    metadata, _ = importing_of(out=tmp_path / "set")
    assert sorted(imported) == sorted(f"clip{i}" for i in range(12))
    files = [
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.array_record")}
        for out in (tmp_path / "whole", tmp_path / "set")
    ]
    assert files[0] == files[1] and len(files[0]) == 12
    assert not (tmp_path / "set.partial").exists() and not (tmp_path / "set" / JOURNAL_FILE).exists()
    assert metadata["splits"]["val"]["records"] == metadata["splits"]["test"]["records"] == 1


def test_a_recording_that_has_changed_since_a_stop_is_imported_again(folder, importing_of, tmp_path, monkeypatch):
    frames, speed = play(60)
    for name in ("a", "b"):
        np.savez(folder / f"{name}.npz", frames=frames)
        write_csv(folder / f"{name}.csv", speed)
    original = RecordingImporter.import_recording
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            RecordingImporter, "import_recording", lambda *args: original(*args) if args[1].name == "a" else stop()
        )
        importing_of()
    write_csv(folder / "a.csv", -speed)
    importing_of()
    truth = np.concatenate([vectors_of(-speed), vectors_of(speed)])
    assert sorted(map(tuple, whole(tmp_path / "set")[1])) == sorted(map(tuple, truth))


def stop():
    raise KeyboardInterrupt


def test_several_processes_make_the_same_files(folder, importing_of, tmp_path, monkeypatch):
    write_clips(folder, 5)
    frames = np.load(folder / "clip2.npz")["frames"]
    np.savez(folder / "clip2.npz", frames=frames)  # without actions
    monkeypatch.setattr(importer, "MIN_FRAMES_PER_WORKER", 1)
    for workers in (1, 3):
        metadata, told = importing_of(out=tmp_path / str(workers), workers=workers)
        assert [*metadata["recordings"]] == ["clip0", "clip1", "clip3", "clip4"] and len(told) == 1
        assert [*metadata["skipped"]] == ["clip2"] and metadata["splits"]["val"]["records"] > 0
    one, three = (
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "1", tmp_path / "3")
    )
    assert one == three and len(one) > 4


def end_at_once(source):
    """As a process ends that the system kills for its memory."""
    os._exit(1)


def test_a_killed_worker_is_one_line_and_the_same_command_goes_on(folder, importing_of, tmp_path, monkeypatch):
    write_clips(folder, 4)
    monkeypatch.setattr(importer, "MIN_FRAMES_PER_WORKER", 1)
    original = importer._import_in_worker
    monkeypatch.setattr(importer, "_import_in_worker", end_at_once)
    with pytest.raises(ValueError, match=r"a worker process was killed.*fewer workers"):
        importing_of(workers=2)
    assert not (tmp_path / "set").exists()
    monkeypatch.setattr(importer, "_import_in_worker", original)
    assert len(importing_of(workers=2)[0]["recordings"]) == 4


def test_another_command_begins_anew(folder, importing_of, tmp_path, monkeypatch):
    write_clips(folder, 2)
    monkeypatch.setattr(importer, "finish_partial", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        importing_of(fit="pad")
    monkeypatch.undo()
    (tmp_path / "set.partial" / "train" / "left_over").write_text("")
    importing_of(fit="stretch")
    assert not (tmp_path / "set" / "train" / "left_over").exists()


def test_killed_while_it_imports_and_started_again(folder, tmp_path):
    """In a process of its own, with a video long enough to be killed in."""
    frames, speed = play(3000, 64, 64)
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", frames, 30)
        write_csv(folder / f"{name}.csv", speed)
    call = [sys.executable, "-m", "scripts.import_video", "--videos", folder, "--out", tmp_path / "set", "--fps", "30"]
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
    got, actions = whole(tmp_path / "set")
    assert len(got) == 6000 and actions[:, 4].sum() == pytest.approx(2 * speed.sum() / 20, abs=1e-2)


def test_memory_does_not_grow_with_length(folder, importing_of, monkeypatch):
    """At no time are there more frames than one record has."""
    write_clips(folder, 1, num_frames=2000)
    held, add = [], recording_importer.EpisodeWriter.add
    monkeypatch.setattr(
        recording_importer.EpisodeWriter, "add", lambda self, *a: add(self, *a) or held.append(len(self._episode))
    )
    importing_of(size="32x32")
    assert len(held) == 2000 and max(held) == 160


# What is wrong


def import_command(monkeypatch, capsys, folder, out, *options):
    return command(monkeypatch, capsys, "scripts.import_video", "--videos", folder, "--out", out, *options)


def test_bad_recordings_are_named_skipped_and_counted(folder, tmp_path, monkeypatch, capsys):
    frames, speed = play(200)
    names = "good1 good2 broken cut no_actions short_actions unknown_key not_a_number clock"
    for name in names.split():
        write_video(folder / f"{name}.mp4", frames, 20)
        write_csv(folder / f"{name}.csv", speed)
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    data = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "no_actions.csv").unlink()
    write_csv(folder / "short_actions.csv", speed[:50])
    (folder / "unknown_key.csv").write_text("keys\n" + "q\n" * 200)
    (folder / "not_a_number.csv").write_text("dx\n" + "much\n" * 200)
    write_csv(folder / "clock.csv", speed, np.arange(200) * 50)  # milliseconds
    (folder / "sound.mp4").write_bytes(b"")
    np.savez(folder / "flat.npz", frames=np.zeros((5, 5), np.uint8), actions=np.zeros((5, 6)))
    (folder / "damaged.npz").write_bytes(b"PK not a zip")
    code, out, err = import_command(monkeypatch, capsys, folder, tmp_path / "set")
    assert code == 0, err
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
        assert words in lines[f"skipped {folder / name}"], lines
    assert set(json.loads((tmp_path / "set" / "metadata.json").read_text())["skipped"]) == {
        Path(name).stem for name in expected
    }
    shards = [*(tmp_path / "set").rglob("*.array_record")]
    assert sorted((path.parent.name, path.name.split("-")[0]) for path in shards) == [
        ("train", "good1"), ("val", "good2"),
    ]  # fmt: skip


def test_a_video_damaged_in_its_middle(folder, importing_of, tmp_path):
    """Either it is decoded to its end or it is left out; half of it never stays."""
    frames, speed = play(400)
    for name in ("a", "b"):
        write_video(folder / f"{name}.avi", frames, 20, "mpeg4")
        write_csv(folder / f"{name}.csv", speed)
    data = bytearray((folder / "a.avi").read_bytes())
    data = data[: len(data) // 3]
    (folder / "a.avi").write_bytes(data)
    metadata, told = importing_of()
    assert len(told) == 1 and "a.avi" in told[0] and list(metadata["recordings"]) == ["b"]
    assert len(whole(tmp_path / "set")[0]) == 400


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda d: None, (), ("nothing to import",)),
        (lambda d: (d / "a.mp4").write_bytes(b"no"), (), ("no recording in", "could be imported", "cannot be read")),
        (lambda d: shutil.rmtree(d), (), ("no folder at",)),
        (
            lambda d: (write_clips(d, 1), (d / "actions.toml").unlink()),
            (),
            ("actions.toml: describe", "actions to none"),
        ),
        (lambda d: (write_clips(d, 1), (d / "actions.toml").write_text("[buttons")), (), ("is invalid",)),
        (
            lambda d: (write_clips(d, 1), (d / "actions.toml").write_text("a=1")),
            (),
            ("unknown keys a",),
        ),
        (
            lambda d: (write_clips(d, 1), (d / "actions.toml").write_text("")),
            (),
            ("give either [actions]", "or [buttons]"),
        ),
        (lambda d: (write_clips(d, 1), (d / "actions.toml").write_text("[axes]\nx=0")), (), ("must be positive",)),
        (
            lambda d: (write_clips(d, 1), (d / "actions.toml").write_text('[buttons]\na="A"\nignored=["*"]')),
            (),
            ("ignored is inside a table: move it above the first table",),
        ),
        (
            lambda d: (write_clips(d, 1), (d / "actions.toml").write_text('ignored="F3"\n[buttons]\na="A"')),
            (),
            ("ignored is 'F3': expected a list",),
        ),
        (
            lambda d: (write_clips(d, 1), (d / "actions.toml").write_text('[buttons]\naction="A"')),
            (),
            ("'action' cannot be a button or axis",),
        ),
        (lambda d: write_clips(d, 1, num_frames=3), ("--min-frames", 8), ("only 3 frames",)),
        (lambda d: write_clips(d, 1), ("--size", "big"), ("size is 'big': expected width x height",)),
        (lambda d: write_clips(d, 1), ("--size", "9600x6400"), ("size is '9600x6400': frames are at most",)),
        (lambda d: write_clips(d, 1), ("--fps", 0), ("fps is 0",)),
        (lambda d: (write_clips(d, 1), (d / "clip0.gif").write_bytes(b"")), (), ("have the same name",)),
    ],
)
def test_mistakes(folder, tmp_path, monkeypatch, capsys, make, options, words):
    make(folder)
    code, _, err = import_command(monkeypatch, capsys, folder, tmp_path / "set", *options)
    assert_one_line(code, err, *words)
    assert not (tmp_path / "set").exists()


def test_what_would_be_in_a_damaged_file_does_not_stop_the_others(folder, importing_of):
    """Each of these is told of, and left out; only one has something wrong with its name."""
    frames, speed = play(60)
    np.savez(folder / "good.npz", frames=frames, actions=vectors_of(speed))
    (folder / "shots").mkdir()
    for i in range(20):
        Image.fromarray(frames[i]).save(folder / "shots" / f"x_f{i}_a1.png")
    path = folder / "shots" / "x_f7_a1.png"
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT")
    data[at - 4 : at + 60] = bytes(64)
    path.write_bytes(data)
    np.savez_compressed(folder / "packed.npz", frames=frames, actions=vectors_of(speed))
    data = bytearray((folder / "packed.npz").read_bytes())
    data[2000:2400] = bytes(400)
    (folder / "packed.npz").write_bytes(data)
    write_video(folder / "clip.mp4", frames)
    (folder / "clip.npz").write_bytes(b"")
    np.save(folder / "other.npy", frames)
    (folder / "other.npy").rename(folder / "other.npz")
    (folder / "nothing.ts").mkdir()
    metadata, told = importing_of()
    assert list(metadata["recordings"]) == ["good"] and set(metadata["skipped"]) == {"shots", "packed", "clip", "other"}
    assert "x_f7_a1.png cannot be read" in metadata["skipped"]["shots"]
    assert metadata["skipped"]["clip"].startswith("clip.npz") and len(told) == 4


def test_what_cannot_be_imported_does_not_set_the_rate(folder, importing_of):
    frames, speed = play(60)
    write_video(folder / "clip.mp4", frames, 20)
    write_csv(folder / "clip.csv", speed)
    write_video(folder / "note.gif", frames[:4], 1, "gif")
    metadata, told = importing_of()
    assert metadata["fps"] == 20 and len(told) == 1


def test_recordings_are_never_replaced(folder, tmp_path, monkeypatch, capsys):
    write_clips(folder, 1)
    for out in (folder, tmp_path):
        code, _, err = import_command(monkeypatch, capsys, folder, out, "--overwrite")
        assert_one_line(code, err, "is inside", "would be replaced")
    assert (folder / "clip0.npz").exists()


def test_a_link_to_another_disk_stays_one(folder, importing_of, tmp_path):
    write_clips(folder, 1)
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "disk")
    importing_of()
    assert (tmp_path / "set").is_symlink() and (tmp_path / "disk" / "metadata.json").is_file()
    assert not [*tmp_path.glob("*.partial")] and not (tmp_path / "disk" / JOURNAL_FILE).exists()


def test_recordings_for_validation_alone(folder, tmp_path, monkeypatch, capsys):
    (folder / "val").mkdir()
    write_clips(folder / "val", 1)
    code, out, err = import_command(monkeypatch, capsys, folder, tmp_path / "set")
    assert code == 0 and "val: 1 records" in out, err


def test_what_is_there_is_not_replaced(folder, tmp_path, monkeypatch, capsys):
    write_clips(folder, 2)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "precious").write_text("")
    code, _, err = import_command(monkeypatch, capsys, folder, tmp_path / "set")
    assert_one_line(code, err, "is not empty", "overwrite")
    assert import_command(monkeypatch, capsys, folder, tmp_path / "set", "--overwrite")[0] == 0
    assert not (tmp_path / "set" / "precious").exists()


def test_a_stream_that_begins_between_its_key_frames(folder, importing_of, tmp_path):
    """The first picture that can be decoded is the first: what was pressed stands beside it, and the others."""
    frames, speed = play(150)
    write_video(tmp_path / "whole.mkv", frames, 20, gop=50)
    with av.open(str(tmp_path / "whole.mkv")) as whole_one, av.open(str(folder / "clip.mkv"), "w") as container:
        stream = container.add_stream_from_template(whole_one.streams.video[0])
        for packet in list(whole_one.demux(video=0))[25:]:
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    write_csv(folder / "clip.csv", speed[50:])
    assert not importing_of()[1]
    found = whole(tmp_path / "set")
    assert len(found[0]) == 100 and psnr(frames[50:], found[0]) > 25
    assert found[1] == pytest.approx(vectors_of(speed[50:]))


def test_a_picture_that_is_lost_moves_no_other(folder, importing_of, tmp_path, monkeypatch):
    frames, speed = play(400)
    write_video(folder / "clip.mkv", frames, 20, "ffv1")
    write_csv(folder / "clip.csv", speed)
    decoded = recordings_of._decode_video
    lost = lambda path: (picture for i, picture in enumerate(decoded(path)) if i != 7)  # noqa: E731
    monkeypatch.setattr(recordings_of, "_decode_video", lost)
    assert not importing_of()[1]
    found = whole(tmp_path / "set")[0]
    assert len(found) == 400
    assert psnr(frames[8:], found[8:]) > 40 and psnr(frames[6], found[7]) > 40


def test_two_sources_of_times_agree(tmp_path):
    """Time stamps of packets, which are read first, are those of the pictures."""
    frames, _ = play(50)
    write_video(tmp_path / "clip.mp4", frames, 30)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert frame_times(find_sources(tmp_path)[0], 15) == pytest.approx(shown)
