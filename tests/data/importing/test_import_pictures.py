"""Pictures of every kind of recording are imported with their times."""

import av
import numpy as np
import pytest
from import_helpers import read_recording, vectors_from_speed
from PIL import Image
from recordings import play, turn, write_csv, write_matrix, write_video

from dreamrun.data.importing import decoding
from dreamrun.data.importing.description import read_description
from dreamrun.data.importing.sources import find_sources, frame_times
from dreamrun.data.metadata import read_metadata
from dreamrun.data.metrics import psnr


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
def test_videos_are_imported_within_codec_error(recordings, run_import, tmp_path, suffix, codec, sound, least):
    frames, speed = play(120)
    write_video(recordings / f"clip{suffix}", frames, 20, codec, sound=sound)
    write_csv(recordings / "clip.csv", speed)
    metadata, reports = run_import()
    assert not reports and metadata["fps"] == 20 and metadata["frame_shape"] == [64, 96, 3]
    got, actions = read_recording(tmp_path / "set")
    assert np.array_equal(actions, vectors_from_speed(speed))
    assert got.shape == frames.shape and psnr(frames, got) > least
    with av.open(str(recordings / f"clip{suffix}")) as container:
        assert np.array_equal(got, [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read_metadata(tmp_path / "set").actions == read_description(recordings / "actions.toml").space


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos_are_turned_upright(recordings, run_import, tmp_path, degrees):
    frames, _ = play(40)
    stored = np.rot90(frames, degrees // 90, axes=(1, 2))  # anticlockwise, so that turned clockwise it is right
    write_video(recordings / "clip.mp4", np.ascontiguousarray(stored), 20)
    turn(recordings / "clip.mp4", degrees)
    run_import(actions="none")
    assert psnr(frames, read_recording(tmp_path / "set")[0]) > 25


@pytest.mark.parametrize(
    ("matrix", "store"),
    [
        ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
        ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
        ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
        ((0, -1, -1, 0), lambda frames: frames.swapaxes(1, 2)[:, ::-1, ::-1]),
    ],
)
def test_mirrored_videos_are_shown_as_they_say(recordings, run_import, tmp_path, matrix, store):
    frames, _ = play(40)
    write_video(recordings / "clip.mp4", np.ascontiguousarray(store(frames)), 20)
    write_matrix(recordings / "clip.mp4", *matrix)
    run_import(actions="none")
    assert psnr(frames, read_recording(tmp_path / "set")[0]) > 25


@pytest.mark.parametrize(("width", "height"), [(97, 65), (95, 63), (31, 203)])
def test_videos_of_odd_size_are_imported(recordings, run_import, tmp_path, width, height):
    frames, _ = play(20, width, height)
    write_video(recordings / "clip.mp4", frames, 20)
    run_import(actions="none", size="32x40", fit="stretch")
    got, _ = read_recording(tmp_path / "set")
    wanted = [np.asarray(Image.fromarray(f).resize((32, 40), Image.Resampling.BOX)) for f in frames]
    assert got.shape == (20, 40, 32, 3) and psnr(np.stack(wanted), got) > 18


@pytest.mark.parametrize(("fit", "inside"), [("crop", (0, 64)), ("pad", (16, 48))])
def test_other_shapes_are_cropped_or_padded(recordings, run_import, tmp_path, fit, inside):
    frames, _ = play(20, width=128, height=64)
    write_video(recordings / "clip.mp4", frames, 20)
    run_import(actions="none", size="64x64", fit=fit)
    got, _ = read_recording(tmp_path / "set")
    top, bottom = inside
    assert got[:, :top].max(initial=0) < 8 and got[:, bottom:].max(initial=0) < 8
    small = [np.asarray(Image.fromarray(f).resize((64, 32), Image.Resampling.BOX)) for f in frames]
    wanted = frames[:, :, 32:96] if fit == "crop" else np.stack(small)
    assert psnr(wanted, got[:, top:bottom]) > 22


def test_variable_frame_rate_follows_time_stamps(recordings, run_import, tmp_path):
    """The picture is that of its moment, and an action counts when it was taken."""
    rng = np.random.default_rng(0)
    stamps = np.cumsum(rng.choice([20, 40, 100, 150], 200))
    stamps -= stamps[0]
    frames, speed = play(200)
    write_video(recordings / "clip.mkv", frames, 20, stamps_ms=stamps)
    write_csv(recordings / "clip.csv", speed)
    run_import(fps=10)
    got, actions = read_recording(tmp_path / "set")
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


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_imported_bit_by_bit(recordings, run_import, tmp_path, compressed):
    """DMLab's way: `video` and ids in one .npz."""
    (recordings / "actions.toml").write_text('[actions]\nleft=["LEFT"]\nright=["RIGHT"]\nforward=["UP"]\n')
    frames, _ = play(170)
    ids = np.random.default_rng(0).integers(0, 3, 170)
    (np.savez_compressed if compressed else np.savez)(recordings / "clip.npz", video=frames, actions=ids)
    run_import()
    got, actions = read_recording(tmp_path / "set")
    assert np.array_equal(got, frames) and np.array_equal(actions, ids) and actions.dtype == np.int32


def test_a_video_that_begins_between_key_frames(recordings, run_import, tmp_path):
    """The first picture that can be decoded is the first: what was pressed stands beside it, and the others."""
    frames, speed = play(150)
    write_video(tmp_path / "complete.mkv", frames, 20, gop=50)
    with av.open(str(tmp_path / "complete.mkv")) as complete, av.open(str(recordings / "clip.mkv"), "w") as container:
        stream = container.add_stream_from_template(complete.streams.video[0])
        for packet in list(complete.demux(video=0))[25:]:
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    write_csv(recordings / "clip.csv", speed[50:])
    assert not run_import()[1]
    found = read_recording(tmp_path / "set")
    assert len(found[0]) == 100 and psnr(frames[50:], found[0]) > 25
    assert found[1] == pytest.approx(vectors_from_speed(speed[50:]))


def test_a_lost_picture_moves_no_other(recordings, run_import, tmp_path, monkeypatch):
    frames, speed = play(400)
    write_video(recordings / "clip.mkv", frames, 20, "ffv1")
    write_csv(recordings / "clip.csv", speed)
    decoded = decoding._decode
    lost = lambda path: (picture for i, picture in enumerate(decoded(path)) if i != 7)  # noqa: E731
    monkeypatch.setattr(decoding, "_decode", lost)
    assert not run_import()[1]
    found = read_recording(tmp_path / "set")[0]
    assert len(found) == 400
    assert psnr(frames[8:], found[8:]) > 40 and psnr(frames[6], found[7]) > 40


def test_packet_times_are_picture_times(tmp_path):
    """Time stamps of packets, which are read first, are those of the pictures."""
    frames, _ = play(50)
    write_video(tmp_path / "clip.mp4", frames, 30)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert frame_times(find_sources(tmp_path)[0], 15) == pytest.approx(shown)
