"""CSV files of actions as programs and spreadsheets write them, and the check that they are aligned with frames."""

import numpy as np
import pytest
from import_helpers import read_recording
from recordings import DESCRIBED, play
from tiny import assert_one_line, command

from dreamrun.data.importing.recorded_actions import read_actions


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
    code, out, err = command(monkeypatch, capsys, "scripts.visualize_dataset", "--data", tmp_path / "set", "--check")
    assert code == 0 and "aligned: actions[t] leads" in out, err + out


def test_actions_three_frames_early_are_not_aligned(recordings, run_import, tmp_path, clip, monkeypatch, capsys):
    """300 frames with few changes of direction, but a strong correlation at another lag."""
    keys = [*clip[3:], "", "", ""]
    (recordings / "clip.csv").write_text("frame,keys\n" + "\n".join(f"{i},{key}" for i, key in enumerate(keys)) + "\n")
    assert not run_import(actions="csv")[1]
    code, out, err = command(monkeypatch, capsys, "scripts.visualize_dataset", "--data", tmp_path / "set", "--check")
    assert code == 0 and "NOT ALIGNED: motion follows actions by +3 frames" in out, err + out


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
    from dreamrun.data.importing.description import read_description

    (tmp_path / "actions.toml").write_bytes("\ufeff".encode() + DESCRIBED.encode())  # with a byte order mark
    (tmp_path / "clip.csv").write_text("\n".join(lines) + "\n")
    description = read_description(tmp_path / "actions.toml")
    times, actions = read_actions(tmp_path / "clip.csv", description, np.arange(3) / 20)
    np.testing.assert_allclose(times, [0, 0.05, 0.1])
    assert actions[:, :2].tolist() == [[1, 0], [0, 1], [0, 1]]


def test_an_empty_row_of_another_single_column_is_an_error(tmp_path, recordings, monkeypatch, capsys):
    """It would be dropped, and later actions would shift; at the end it is nothing."""
    from dreamrun.data.importing.description import read_description

    description = read_description(recordings / "actions.toml")
    path = tmp_path / "clip.csv"
    path.write_text("jump\n1\n\n0\n")
    with pytest.raises(ValueError, match="line 3 is empty: later actions would shift"):
        read_actions(path, description, np.arange(3) / 20)
    path.write_text("jump\n1\n0\n1\n\n\n")
    assert len(read_actions(path, description, np.arange(3) / 20)[1]) == 3


def test_joined_names_in_a_space_of_single_actions(monkeypatch, capsys, tmp_path, pong_set, pong_checkpoint):
    options = ("--checkpoint", pong_checkpoint, "--data", pong_set, "--actions", "up+down", "--num-samples", 1)
    code, _, err = command(monkeypatch, capsys, "scripts.infer", *options, "--output", tmp_path / "dream.mp4")
    assert_one_line(code, err, "unknown action 'up+down'", "one at a time")
