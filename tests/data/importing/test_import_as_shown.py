"""Recordings are imported as players and viewers show them, and their actions as people mean them.

Each test is a situation that users of data sets, video and recorders report.
"""

import os
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from import_helpers import read_recording
from PIL import Image
from recordings import assert_read_as, play, turn, write_csv, write_video
from tiny import command

from dreamrun.data.importing.clip_source import read_clip, read_source
from dreamrun.data.importing.description import read_description
from dreamrun.data.importing.importer import plan_splits
from dreamrun.data.importing.recorded_actions import resample_actions
from dreamrun.data.metrics import psnr
from dreamrun.games.space import UNCONDITIONAL

# EXIF orientation -> how an upright picture (H, W, 3) is stored.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def picture_of(path, width=96, height=64) -> np.ndarray:
    """A picture file as --clip and `edit` read it."""
    return read_source(str(path), width, height, 15, UNCONDITIONAL).frames[0]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_pictures_with_exif_are_upright(recordings, run_import, tmp_path, suffix, orientation):
    (recordings / "shots").mkdir()
    frames, exif = play(3)[0], Image.Exif()
    exif[0x0112] = orientation
    for i, frame in enumerate(frames):
        stored = np.ascontiguousarray(STORED[orientation](frame))
        Image.fromarray(stored).save(recordings / "shots" / f"{i}.{suffix}", exif=exif, quality=95)
    run_import(actions="none")
    assert psnr(frames, read_recording(tmp_path / "set")[0]) > 25
    assert psnr(frames[0], picture_of(recordings / "shots" / f"0.{suffix}")) > 25


def test_a_video_of_jpegs_with_exif_is_upright(recordings, run_import, tmp_path):
    """PyAV does not know this side data."""
    frames, exif = play(8)[0], Image.Exif()
    exif[0x0112] = 6
    with av.open(str(recordings / "clip.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=20)
        stream.height, stream.width, stream.pix_fmt = 96, 64, "yuvj420p"
        for i, frame in enumerate(frames):
            Image.fromarray(np.rot90(frame).copy()).save(tmp_path / "one.jpg", exif=exif, quality=95)
            packet = av.Packet((tmp_path / "one.jpg").read_bytes())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 20)
            container.mux(packet)
    assert not run_import(actions="none")[1]
    assert psnr(frames, read_recording(tmp_path / "set")[0]) > 25


RAMP = np.broadcast_to(np.linspace(0, 255, 96).round().astype(np.uint8), (64, 96))


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("16 bits", Image.fromarray(RAMP.astype(np.uint16) * 257)),
        ("grey", Image.fromarray(RAMP.copy())),
        ("CMYK.jpg", Image.fromarray(RAMP.copy()).convert("RGB").convert("CMYK")),
        ("grey with alpha", Image.merge("LA", [Image.new("L", (96, 64), 255), Image.fromarray(RAMP.copy())])),
        ("hidden colour", Image.merge("RGBA", [Image.new("L", (96, 64), 255)] * 3 + [Image.fromarray(RAMP.copy())])),
        ("palette", Image.fromarray(RAMP.copy()).quantize(256)),
    ],
)
def test_pictures_of_every_depth(tmp_path, name, picture):
    path = tmp_path / (name if "." in name else f"{name}.png")
    picture.save(path)
    assert abs(picture_of(path).astype(int) - RAMP[..., None]).max() <= 3


def test_transparent_pixels_are_black(tmp_path):
    """Of one bit, of a palette, and in a GIF."""
    black_and_white = Image.fromarray(RAMP > 127)
    black_and_white.save(tmp_path / "bit.png")
    assert np.unique(picture_of(tmp_path / "bit.png")).tolist() == [0, 255]
    pixels = np.zeros((64, 96), np.uint8)
    pixels[:, 48:] = 1
    for name in ("palette.png", "moving.gif"):
        image = Image.fromarray(pixels, "P")
        image.putpalette([255, 0, 255, 0, 255, 0])
        image.save(tmp_path / name, transparency=0)
        found = picture_of(tmp_path / name).astype(int)
        assert found[:, :46].max() < 8 and abs(found[:, 50:] - [0, 255, 0]).max() < 8


@pytest.mark.parametrize(("degrees", "fit"), [(0, "crop"), (90, "crop"), (0, "pad")])
def test_pixels_that_are_not_square(recordings, run_import, tmp_path, degrees, fit):
    """A circle of 60 pixels, stored in half as many columns."""
    y, x = np.mgrid[:128, :192]
    circle = np.where((y - 64) ** 2 + (x - 96) ** 2 < 30**2, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
    stored = np.rot90(circle, degrees // 90)[:, ::2]
    write_video(recordings / "clip.mp4", np.ascontiguousarray(np.stack([stored] * 12)), aspect=Fraction(2))
    turn(recordings / "clip.mp4", degrees)
    run_import(actions="none", fit=fit)
    for frame in (read_recording(tmp_path / "set")[0][5], read_clip(recordings / "clip.mp4", 1, 96, 64, 15)[0]):
        lit = np.argwhere(frame.mean(-1) > 127)
        assert np.ptp(lit, 0) == pytest.approx([29, 29], abs=2)


def test_interlaced_video_is_deinterlaced(recordings, run_import, tmp_path):
    frames = np.zeros((20, 64, 96, 3), np.uint8)
    for field in range(40):
        frames[field // 2, field % 2 :: 2, field : field + 16] = 255
    with av.open(str(recordings / "clip.mpg"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme", "b": "8M"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in (*frames, None):
            container.mux(stream.encode(frame if frame is None else av.VideoFrame.from_ndarray(frame, format="rgb24")))
    run_import(actions="none", fps=25)
    found = read_recording(tmp_path / "set")[0].astype(int)
    assert len(found) == 20
    assert abs(found[5:15, 1:-1] - (found[5:15, :-2] + found[5:15, 2:]) // 2).mean() < 1  # no combs: 8 as it is stored


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_joined_streams_are_skipped_by_name(recordings, run_import, tmp_path, suffix):
    codec = {"ts": "libx264", "mpg": "mpeg2video"}[suffix]
    for i in range(2):
        write_video(tmp_path / f"{i}.{suffix}", play(40, seed=i)[0], 25, codec)
    parts = [(tmp_path / f"{i}.{suffix}").read_bytes() for i in range(2)]
    (recordings / f"joined.{suffix}").write_bytes(parts[0] + parts[1])
    (recordings / f"whole.{suffix}").write_bytes(parts[0])
    metadata, reports = run_import(actions="none")
    assert list(metadata["recordings"]) == ["whole"]
    assert "time stamps jump back" in reports[0] and "joined" in reports[0]


def test_the_default_track_is_imported(recordings, run_import, tmp_path):
    with av.open(str(recordings / "clip.mkv"), "w") as container:
        for i in range(2):
            stream = container.add_stream("ffv1", rate=20)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv444p"
            stream.disposition = av.stream.Disposition.default if i else av.stream.Disposition(0)
        for i, value in enumerate((50, 200)):
            stream = container.streams.video[i]
            picture = av.VideoFrame.from_ndarray(np.full((64, 96, 3), value, np.uint8), format="rgb24")
            for packet in (*stream.encode(picture), *stream.encode()):
                container.mux(packet)
    run_import(actions="none")
    assert abs(read_recording(tmp_path / "set")[0].astype(int) - 200).max() < 4


def test_files_of_operating_systems_are_no_recordings(recordings, run_import):
    frames, _ = play(5)
    write_video(recordings / "clip.mp4", frames)
    for name in ("._clip.mp4", "shots/._0.png", "shots/.DS_Store", "__MACOSX/clip.mp4", "@eaDir/clip.jpg", "._a.npz"):
        (recordings / name).parent.mkdir(exist_ok=True)
        (recordings / name).write_bytes(b"\0\5\x16\7")
    Image.fromarray(frames[0]).save(recordings / "shots" / "0.png")
    (recordings / "shots" / "Thumbs.db").write_bytes(b"")
    metadata, reports = run_import(actions="none")
    assert sorted(metadata["recordings"]) == ["clip", "shots"] and not reports


def test_names_of_split_folders():
    names = [
        "Train/a",
        "training/b",
        "validation/c",
        "valid/d",
        "val/e",
        "dev/f",
        "EVAL/g",
        "testing/h",
        "other/i",
        "j",
    ]
    splits = [*["train"] * 2, *["val"] * 5, "test", "train", "train"]
    assert list(plan_splits(names).values()) == splits
    assert list(plan_splits([f"unpacked/{name}" for name in names]).values()) == splits
    assert list(plan_splits(["train/a/0", "train/b/0"]).values()) == ["train", "train"]


def test_a_name_that_is_not_utf8(recordings, tmp_path, monkeypatch, capsys):
    frames, speed = play(30)
    write_video(recordings / "b.mp4", frames)
    write_csv(recordings / "b.csv", speed)
    for suffix in (".mp4", ".csv"):
        shutil.copy(recordings / f"b{suffix}", os.fsencode(recordings) + b"/\xe8\xe3" + suffix.encode())
    code, out, err = command(
        monkeypatch, capsys, "scripts.import_video", "--videos", recordings, "--out", tmp_path / "set"
    )
    assert code == 0 and "1 recordings, 1 skipped" in out, err
    assert r"\udce8\udce3.mp4: its name is not UTF-8" in out + err


ONE_AT_A_TIME = '[actions]\nnoop=[]\nleft="LEFT"\nright="RIGHT"\n'
NUMBERS = '[actions]\n1=[]\n2="LEFT"\n3="RIGHT"\n'
MARKS = '[buttons]\nleft="a"\nzoom="+"\nnext=","\n'
TRIGGERS = '[buttons]\ngas="w"\nbrake={keys="s", threshold=100}\n'


@pytest.mark.parametrize(
    ("described", "fields", "meant"),
    [
        (ONE_AT_A_TIME + '[recorded]\n1="right"\n2="left"', {"action": "1"}, 2),
        (ONE_AT_A_TIME + '[recorded]\n1="right"\n2="left"', {"action": 2.0}, 1),
        (NUMBERS, {"action": "1"}, 0),
        (NUMBERS, {"action": "3.0"}, 2),
        (NUMBERS, {"action": "0"}, "no action 0: some are named by numbers"),
        (ONE_AT_A_TIME, {"action": "3"}, "the action is 3: actions.toml has 0 to 2"),
        (MARKS, {"keys": "+"}, [0, 1, 0]),
        (MARKS, {"keys": "a++"}, [1, 1, 0]),
        (MARKS, {"keys": "a + ,"}, [1, 0, 1]),
        (MARKS, {"keys": ",,+"}, [0, 1, 1]),
        (MARKS, {"keys": "a,"}, [1, 0, 0]),
        (MARKS, {"keys": ["+", ","]}, [0, 1, 1]),
        ('[actions]\nnoop=[]\nzoom="+"\n', {"keys": "+"}, 1),
        (TRIGGERS, {"gas": "0.0039", "brake": "99"}, [0, 0]),
        (TRIGGERS, {"gas": "0.5", "brake": "255"}, [1, 1]),
        (TRIGGERS, {"keys": "w+s"}, [1, 1]),
        (TRIGGERS, {"action": [0.4, 180]}, [0, 1]),
    ],
)
def test_actions_are_read_as_people_mean_them(tmp_path, described, fields, meant):
    assert_read_as(tmp_path, described, fields, meant)


def test_recorded_ids_of_an_array_are_mapped(tmp_path):
    (tmp_path / "actions.toml").write_text(ONE_AT_A_TIME + '[recorded]\n1="right"\n2="left"\n')
    assert read_description(tmp_path / "actions.toml").from_array(np.array([0, 1, 2, 1])).tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize(("fps", "wanted"), [(15, [1, 0.5, 0]), (60, [1] * 6 + [0] * 6), (120, [1] * 12 + [0] * 12)])
def test_a_stick_is_held_where_it_is(tmp_path, fps, wanted):
    """Motion would be summed, and be 0 between rows."""
    (tmp_path / "actions.toml").write_text('[axes]\nstick={scale=1, kind="position"}\nmouse=1\n')
    description = read_description(tmp_path / "actions.toml")
    rows = np.repeat([[1.0, 1.0], [0.0, 0.0]], 6, 0)
    actions = resample_actions(
        np.arange(12) / 60, rows, description.space, fps // 5, fps, np.array(description.positions)
    )
    assert actions[:, 0] == pytest.approx(wanted) and actions[:, 1].sum() == pytest.approx(6)
