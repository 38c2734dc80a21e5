"""Nonsense that users of the API pass is a ValueError that says what is wrong."""

import json
from pathlib import Path

import pytest

from dreamrun.data import ActionSpace, EpisodeWriter
from dreamrun.data.dataset import ClipDataset
from dreamrun.games.factory import make_environment
from dreamrun.games.space import unnamed_actions
from dreamrun.games.untrusted import printable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": ("LEFT", "RIGHT")}, "the keys of an action are 'LEFT': expected a tuple or a list"),
        ({"keys": "AB"}, "keys are 'AB'"),
        ({"names": "ab"}, "names are 'ab'"),
        ({"names": ("a", 1)}, "an action name is 1"),
        ({"names": ("a", "\x1b[2J")}, "control"),
        ({"names": ("a", "x" * 1000)}, "at most 200 characters"),
        ({"names": ("a",) * 10**5}, "at most 4096"),
        ({"keys": ((), (5,))}, "a key is 5"),
        ({"keys": (None, ())}, "keys of an action are None"),
        ({"acting": (0.5,)}, "acting_actions hold 0.5"),
        ({"acting": "01"}, "acting are '01'"),
        ({"acting": (2,)}, "expected indices of the 2 actions"),
        ({"kinds": ("button", "key"), "scales": (1, 1)}, "action_kinds"),
        ({"kinds": ("button", "axis"), "scales": (1, float("nan"))}, "action_scales"),
        ({"kinds": ("button", "axis"), "scales": (1, "2")}, "action_scales"),
    ],
)
def test_action_spaces(change, message):
    with pytest.raises(ValueError, match=message):
        ActionSpace(**{"names": ("a", "b"), "keys": ((), ("UP",)), "acting": (0, 1), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"fps": 0}, "fps is 0"), ({"environment": "\x1b]0;"}, "environment is"), ({"caption": "\x1b]0;"}, "caption is")],
)
def test_writers(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        EpisodeWriter(tmp_path / "set", unnamed_actions(2), **change)
    assert not [*tmp_path.iterdir()]


def test_names_of_files_are_printed_without_control_characters(tmp_path, write_set, make_record, capsys):
    assert printable("a\x1b[31mb\u202e\n\x9b") == r"a\x1b[31mb\u202e\n\x9b" and printable("äß漢 é") == "äß漢 é"
    folder = write_set(tmp_path / "set", [make_record(9)])
    (folder / "train" / "\x1b[31mred.array_record").write_text("no shard")
    ClipDataset(folder, "train", 4, max_bad_fraction=1.0)
    err = capsys.readouterr().err
    assert "warning: skipped" in err and r"\x1b[31mred" in err and "\x1b" not in err


def test_paths_stay_inside_of_a_checkpoint(tmp_path):
    from dreamrun.training.state import find_damage

    outside = tmp_path / "outside"
    outside.write_text("secret")
    checkpoint = tmp_path / "step_0000001"
    checkpoint.mkdir()
    for name in ("../outside", str(outside), "/dev/zero", ""):
        files = {"training_state.pt": {"bytes": 0, "sha256": ""}, name: {"bytes": 0, "sha256": ""}}
        (checkpoint / "manifest.json").write_text(json.dumps({"step": 1, "files": files}))
        assert find_damage(checkpoint) == "it has no readable manifest.json"
    assert isinstance(checkpoint, Path)


@pytest.mark.parametrize("game", ["pong", "coinrun"])
@pytest.mark.parametrize("levels", [(-5, 1), (0, 0), (2**31, 1), (2**31 - 1, 2), (2**62, 1)])
def test_levels_out_of_range_are_an_error(game, levels):
    """Procgen would end the process. A record's level seed may come from a stranger."""
    with pytest.raises(ValueError, match=r"levels .* must lie in 0 to 2147483647"):
        make_environment(game, 1, levels)
