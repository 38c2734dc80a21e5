"""Recorded actions in every spelling are read and resampled."""

from pathlib import Path

import numpy as np
import pytest
from import_helpers import read_recording, vectors_from_speed
from PIL import Image
from recordings import DESCRIBED, assert_read_as, play, write_csv, write_jsonl, write_video
from tiny import CONTROLS, command, succeeded

from dreamrun.data.importing.description import read_description
from dreamrun.data.importing.pictures import pictures_at_ticks
from dreamrun.data.importing.recorded_actions import read_actions, resample_actions
from dreamrun.data.metadata import read_metadata

ROOT = Path(__file__).parents[3]


def test_folders_of_pictures_with_buttons_in_their_names(recordings, run_import, tmp_path):
    """As the published play of Super Mario Bros. names them: palettes, memory behind the picture, no leading zeros."""
    frames, _ = play(30)
    frames = np.repeat(frames[..., :1], 3, axis=3)  # of few colours
    values = {"select": 1, "down": 2, "right": 4, "start": 8, "b": 16, "left": 32, "up": 64, "a": 128}
    bytes_held = np.random.default_rng(0).integers(0, 256, 30)
    run = "Rafael_dp2a9j4i_e0_1-1"
    (recordings / f"{run}_win").mkdir()
    for i, (frame, held) in enumerate(zip(frames, bytes_held, strict=True)):
        path = recordings / f"{run}_win" / f"{run}_f{i + 1}_a{held}_2019-04-13_20-13-{i // 15:02d}.win.png"
        Image.fromarray(frame).quantize(256).save(path)
        with path.open("ab") as file:
            file.write(b"tEXtRAM\0" + bytes(2048))
    metadata, reports = run_import(describe=ROOT / "docs" / "actions" / "nes.toml", source_fps=15)
    assert not reports and metadata["fps"] == 15
    got, actions = read_recording(tmp_path / "set")
    assert np.array_equal(got, frames)
    held = dict(zip(metadata["action_names"], actions.T, strict=True))
    assert held.keys() == values.keys()
    assert all(np.array_equal(held[name], (bytes_held & value) > 0) for name, value in values.items())


def test_vpt_recordings_of_minecraft(recordings, run_import, tmp_path):
    """A line of JSON a frame, as VPT's recordings have it, with the faults of its recorder."""
    frames, _ = play(40)
    write_video(recordings / "clip.mp4", frames, 20)
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
    write_jsonl(recordings / "clip.jsonl", lines)
    assert not run_import(describe=ROOT / "docs" / "actions" / "minecraft.toml")[1]
    _, actions = read_recording(tmp_path / "set")
    space = read_metadata(tmp_path / "set").actions
    held = dict(zip(space.names, actions.T, strict=True))
    assert np.array_equal(held["forward"], number % 3 == 0)
    assert np.array_equal(held["attack"], (number > 10) & down)
    assert np.array_equal(held["hotbar4"], number == 30) and not held["hotbar1"].any()
    scale = space.scales[space.index("camera_x")]
    assert held["camera_x"] == pytest.approx(number / scale) and (held["camera_y"] == np.float32(-2 / scale)).all()


def test_presses_shorter_than_a_frame_are_kept():
    """Rows at 200 a second, ticks at 10: buttons are or-ed, motion is summed, nothing counts twice."""
    rng = np.random.default_rng(0)
    times, rows = np.arange(1000) / 200, np.zeros((1000, 6), np.float32)
    presses = rng.choice(1000, 40, replace=False)
    rows[presses, 2] = 1
    rows[:, 4:] = rng.normal(size=(1000, 2))
    held = resample_actions(times, rows, CONTROLS, 50, 10.0)
    assert np.array_equal(held[:, 2], np.isin(np.arange(50), presses // 20))
    assert held[:, 4:] == pytest.approx(rows[:, 4:].reshape(50, 20, 2).sum(1), abs=1e-4)


def test_buttons_stay_held_until_the_next_row_and_axes_return_to_zero():
    times = np.array([0.02, 0.51, 1.28])
    rows = np.stack([CONTROLS.parse(name) for name in ("left+dx", "right", "noop")])
    held = resample_actions(times, rows, CONTROLS, 15, 10.0)
    assert np.flatnonzero(held[:, 0]).tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(held[:, 1]).tolist() == [5, 6, 7, 8, 9, 10, 11, 12]  # let go at the end of tick 12
    assert np.flatnonzero(held[:, 4]).tolist() == [0]


def test_jitter_moves_no_row_to_another_frame():
    rng = np.random.default_rng(0)
    speed = rng.integers(-1, 2, 500)
    for fps in (15, 29.97, 60):
        times = np.round(np.arange(500) / fps, 3) + rng.choice([0, 0.001], 500)
        times[0] = 0
        assert np.array_equal(pictures_at_ticks(times, fps), np.arange(500))
        assert np.array_equal(
            resample_actions(times, vectors_from_speed(speed), CONTROLS, 500, fps), vectors_from_speed(speed)
        )


def test_acting_ids_win_over_noop(tmp_path):
    (tmp_path / "a.toml").write_text('stand_still=["noop"]\n[actions]\nnoop=[]\nleft="LEFT"\nright="RIGHT"\n')
    space = read_description(tmp_path / "a.toml").space
    assert space.noop == 0 and space.acting == (0, 1, 2) and space.keys == ((), ("LEFT",), ("RIGHT",))
    ids = np.array([0, 0, 1, 0, 2, 2, 1, 0, 0, 0, 0, 0])
    assert resample_actions(np.arange(12) / 40, ids, space, 4, 10.0).tolist() == [1, 2, 0, 0]
    assert resample_actions(np.array([0.2]), np.array([2]), space, 5, 10.0).tolist() == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("kind", ["keys", "key list", "time", "frame", "ids", "names", "vectors", "npz", "bits"])
def test_spellings_of_actions(recordings, run_import, tmp_path, kind):
    frames, speed = play(60)
    write_video(recordings / "clip.mp4", frames, 20)
    vectors = vectors_from_speed(speed)
    held = [["a"] if v < 0 else ["Right"] if v > 0 else [] for v in speed]
    if kind == "keys":
        (recordings / "clip.csv").write_text(
            "keys,dx\n" + "".join(f"{' + '.join(k)}+F3,{v}\n" for k, v in zip(held, speed, strict=True))
        )
    elif kind == "key list":
        write_jsonl(recordings / "clip.jsonl", [{"keys": k, "dx": int(v)} for k, v in zip(held, speed, strict=True)])
    elif kind == "time":
        write_csv(recordings / "clip.csv", speed, np.arange(60) / 20)
    elif kind == "frame":
        rows = [{"frame": i, "dx": int(v), "left": int(v < 0), "right": int(v > 0)} for i, v in enumerate(speed)]
        write_jsonl(recordings / "clip.jsonl", rows[::-1])
    elif kind in ("ids", "names"):
        (recordings / "actions.toml").write_text('[actions]\n"left"="LEFT"\nstay=[]\n"right"="RIGHT"\n')
        names = np.array(["left", "noop", "Right"])[np.sign(speed) + 1] if kind == "names" else np.sign(speed) + 1
        (recordings / "clip.csv").write_text("action\n" + "".join(f"{name}\n" for name in names))
        vectors = np.sign(speed) + 1
    elif kind == "vectors":
        write_jsonl(recordings / "clip.jsonl", [{"action": (v * CONTROLS.scales).tolist()} for v in vectors])
    elif kind == "npz":
        np.savez(recordings / "clip.npz", actions=vectors * np.array(CONTROLS.scales))
    else:
        (recordings / "clip.csv").write_text(
            "buttons,dx\n" + "".join(f"{int(v < 0) + 2 * int(v > 0)},{v}\n" for v in speed)
        )
    assert not run_import()[1]
    assert read_recording(tmp_path / "set")[1] == pytest.approx(vectors)


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
def test_rows_are_read_as_described(tmp_path, described, fields, meant):
    assert_read_as(tmp_path, described, fields, meant)


def test_arrays_with_times(recordings, run_import, tmp_path):
    frames, speed = play(60, 96, 64)
    np.savez(
        recordings / "clip.npz",
        frames=frames,
        actions=vectors_from_speed(speed) * CONTROLS.scales,
        time=5 + np.arange(60) / 30,
    )
    metadata, reports = run_import(fps=30)
    assert not reports and metadata["fps"] == 30
    found = read_recording(tmp_path / "set")
    assert (found[0] == frames).all() and found[1] == pytest.approx(vectors_from_speed(speed))
    write_video(recordings / "clip.mp4", frames, 20)
    order = np.arange(60)[::-1]
    np.savez(recordings / "clip.npz", actions=(vectors_from_speed(speed) * CONTROLS.scales)[order], frame=order)
    assert not run_import(overwrite=True)[1]
    assert read_recording(tmp_path / "set")[1] == pytest.approx(vectors_from_speed(speed))


def test_csv_of_pandas_with_row_numbers(recordings, run_import, tmp_path):
    frames, speed = play(60)
    write_video(recordings / "clip.mp4", frames, 20)
    write_csv(recordings / "clip.csv", speed)
    lines = (recordings / "clip.csv").read_text().splitlines()
    numbered = [f",{lines[0]}", *(f"{i},{line}" for i, line in enumerate(lines[1:]))]
    (recordings / "clip.csv").write_text("\n".join(numbered))
    assert not run_import()[1]
    assert read_recording(tmp_path / "set")[1] == pytest.approx(vectors_from_speed(speed))


# Tables of programs and spreadsheets, and the check that they are aligned with frames


@pytest.fixture
def clip(recordings):
    """A recording of 300 frames; the keys of each frame."""
    frames, speed = play(300, 96, 64)
    np.savez(recordings / "clip.npz", frames=frames)
    return [{-3: "left", 0: "", 3: "right"}[int(v)] for v in speed]


def imported_direction(tmp_path) -> list[int]:
    """-1, 0 or 1 of each imported frame, by the buttons left and right."""
    return (lambda actions: (actions[:, 1] - actions[:, 0]).astype(int).tolist())(read_recording(tmp_path / "set")[1])


def test_empty_rows_of_a_column_of_keys_count(recordings, run_import, tmp_path, clip, monkeypatch, capsys):
    keys = ["", "", "", *clip[3:-2], "", ""]
    (recordings / "clip.csv").write_text("keys\n" + "\n".join(keys) + "\n")
    assert not run_import(actions="csv")[1]
    assert imported_direction(tmp_path) == [{"left": -1, "": 0, "right": 1}[key] for key in keys]
    out = succeeded(command(monkeypatch, capsys, "scripts.visualize_dataset", "--data", tmp_path / "set", "--check"))
    assert "aligned: actions[t] leads" in out


@pytest.mark.parametrize("lag", [3, 4, 8])
def test_early_actions_are_not_aligned(recordings, run_import, tmp_path, clip, monkeypatch, capsys, lag):
    """300 frames with few changes of direction, each held for 4 frames, but a strong correlation at another lag."""
    keys = [*clip[lag:], *[""] * lag]
    (recordings / "clip.csv").write_text("frame,keys\n" + "\n".join(f"{i},{key}" for i, key in enumerate(keys)) + "\n")
    assert not run_import(actions="csv")[1]
    out = succeeded(command(monkeypatch, capsys, "scripts.visualize_dataset", "--data", tmp_path / "set", "--check"))
    assert f"NOT ALIGNED: motion follows actions by +{lag} frames" in out


@pytest.mark.parametrize(
    "lines",
    [
        ["left,right", "True,False", "false,TRUE", "0,1"],
        ["left;right", "1;0", "0;1", "0;1"],
        ["left\tright", "1\t0", "0\t1", "0\t1"],
        ["time;left;right", "0,0;1;0", "0,05;0;1", "0,1;0;1"],
        ["keys", "left", "right", "right"],
        ["frame;keys", "0;left", "1;right", "2;right"],
        ['"keys"', '"left"', '"right"', '"D;F3"'],
    ],
)
def test_spellings_of_tables(tmp_path, lines):
    (tmp_path / "actions.toml").write_bytes("\ufeff".encode() + DESCRIBED.encode())  # with a byte order mark
    (tmp_path / "clip.csv").write_text("\n".join(lines) + "\n")
    description = read_description(tmp_path / "actions.toml")
    times, actions = read_actions(tmp_path / "clip.csv", description, np.arange(3) / 20)
    np.testing.assert_allclose(times, [0, 0.05, 0.1])
    assert actions[:, :2].tolist() == [[1, 0], [0, 1], [0, 1]]


def test_an_empty_row_of_another_single_column_is_an_error(tmp_path, recordings, monkeypatch, capsys):
    """It would be dropped, and later actions would shift; at the end it is nothing."""
    description = read_description(recordings / "actions.toml")
    path = tmp_path / "clip.csv"
    path.write_text("jump\n1\n\n0\n")
    with pytest.raises(ValueError, match="line 3 is empty: later actions would shift"):
        read_actions(path, description, np.arange(3) / 20)
    path.write_text("jump\n1\n0\n1\n\n\n")
    assert len(read_actions(path, description, np.arange(3) / 20)[1]) == 3
