"""Nonsense that users of the API pass is a ValueError that says what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from dreamrun.data import ActionSpace, EpisodeWriter
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.index import INDEX_FILE, index_split
from dreamrun.data.metadata import read_metadata
from dreamrun.games.factory import make_environment
from dreamrun.games.printable import printable
from dreamrun.games.space import unnamed_actions

FRAME = np.zeros((6, 10, 3), np.uint8)


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
    [
        ({"split": "../outside"}, r"split is '../outside'"),
        ({"split": "/tmp/outside"}, "expected a plain name"),
        ({"split": ""}, "split is ''"),
        ({"split": ".."}, "split is '..'"),
        ({"shard_name": "../../data"}, "shard_name is"),
        ({"shard_name": "a/b"}, "shard_name is"),
        ({"actions": ("left", "right")}, "expected an ActionSpace"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": "15"}, "fps is '15'"),
        ({"min_frames": 0}, "min_frames is 0"),
        ({"min_frames": 161}, "min_frames is 161"),
        ({"environment": "\x1b]0;"}, "environment is"),
    ],
)
def test_writers(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        EpisodeWriter(**{"folder": tmp_path / "set", "actions": unnamed_actions(2), **change})
    assert not [*tmp_path.iterdir()]


def test_a_closed_writer_takes_no_more(tmp_path):
    with EpisodeWriter(tmp_path / "set", unnamed_actions(2)) as writer:
        writer.add(FRAME, 0)
        for reward in (float("nan"), float("inf"), "1", [1.0]):
            with pytest.raises(ValueError, match="the reward is"):
                writer.add(FRAME, 0, reward)
    for use in (lambda: writer.add(FRAME, 0), writer.end_episode):
        with pytest.raises(ValueError, match="the writer is closed"):
            use()
    assert writer.num_frames == 1 and not [*tmp_path.rglob("*.tmp")]
    with pytest.raises(ValueError, match="frame_shape"):
        EpisodeWriter(tmp_path / "large", unnamed_actions(2)).add(np.zeros((2000, 10, 3), np.uint8), 0)


def test_data_sets(tmp_path, write_set, make_record):
    folder = write_set(tmp_path / "set", [make_record(9)])
    assert ClipDataset(str(folder), "train", 4).num_clips == 2  # a path as text
    for change, message in (
        ({"folder": str(tmp_path / "none")}, "no data set at"),
        ({"split": "../set/train"}, "split is '../set/train'"),
        ({"split": None}, "split is None"),
        ({"clip_frames": 4.0}, "clip_frames is 4.0"),
        ({"clip_frames": 0}, "clip_frames is 0"),
        ({"stride": "8"}, "stride is '8'"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of world_size 2"),
        ({"num_threads": 0}, "num_threads is 0"),
        ({"max_bad_fraction": float("nan")}, "max_bad_fraction is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            ClipDataset(**{"folder": folder, "split": "train", "clip_frames": 4, **change})
    for batch_size in (0, -4, 2.0):
        with pytest.raises(ValueError, match="batch_size is"):
            ClipDataset(folder, "train", 4).batches(batch_size)


@pytest.mark.parametrize(
    "entry",
    [
        {"lengths": ["x"], "bad": []},
        {"lengths": [10**30], "bad": []},
        {"lengths": [-5], "bad": []},
        {"lengths": [[9]], "bad": []},
        {"lengths": [9], "bad": [{"shard": "a", "number": None, "reason": 5}]},
        {"lengths": [9], "bad": [{"path": "../x"}]},
        {"lengths": 9, "bad": []},
        {},
    ],
)
def test_a_hostile_index_is_read_anew(tmp_path, write_set, make_record, entry):
    folder = write_set(tmp_path / "set", [make_record(9)])
    metadata, path = read_metadata(folder), folder / "train" / INDEX_FILE
    index_split(folder, "train", metadata)
    cache = json.loads(path.read_text())
    ((name, good),) = cache["shards"].items()
    path.write_text(json.dumps({**cache, "shards": {name: {"stamp": good["stamp"], **entry}}}))
    assert index_split(folder, "train", metadata).lengths.tolist() == [9]


def test_names_of_files_are_printed_without_control_characters(tmp_path, write_set, make_record, capsys):
    assert printable("a\x1b[31mb\u202e\n\x9b") == r"a\x1b[31mb\u202e\n\x9b" and printable("äß漢 é") == "äß漢 é"
    folder = write_set(tmp_path / "set", [make_record(9)])
    (folder / "train" / "\x1b[31mred.array_record").write_text("no shard")
    ClipDataset(folder, "train", 4, max_bad_fraction=1.0)
    err = capsys.readouterr().err
    assert "warning: skipped" in err and r"\x1b[31mred" in err and "\x1b" not in err


def test_paths_stay_inside_of_a_checkpoint(tmp_path):
    from dreamrun.training.checkpoint import find_damage

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
