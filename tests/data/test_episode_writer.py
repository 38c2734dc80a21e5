"""EpisodeWriter: what goes in comes out, whole shards or nothing, and on from there."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import CONTROLS, records_of

from dreamrun.data import EpisodeWriter, episode_writer
from dreamrun.data.index import split_shards
from dreamrun.data.metadata import read_metadata
from dreamrun.games.space import ActionSpace, unnamed_actions

ROOT = Path(__file__).parents[2]


def write_episodes(writer: EpisodeWriter, lengths: list[int], seed: int = 0):
    """Random play; returns frames, actions and rewards of each episode."""
    rng, played = np.random.default_rng(seed), []
    for length in lengths:
        frames = rng.integers(0, 256, (length, 6, 10, 3), np.uint8)
        actions, rewards = writer.actions.random(rng, length), rng.normal(size=length).astype(np.float32)
        for step in zip(frames, actions, rewards, strict=True):
            writer.add(*step)
        writer.end_episode(terminal=length % 2 == 0)
        played.append((frames, actions, rewards))
    return played


@pytest.mark.parametrize("space", [CONTROLS, unnamed_actions(5)])
def test_round_trip(tmp_path, space):
    with EpisodeWriter(tmp_path / "set", space, fps=12, environment="mine") as writer:
        played = write_episodes(writer, [5, 160, 333, 1])
    assert writer.num_records == 1 + 1 + 3 + 1 and writer.num_frames == 499
    records = records_of(tmp_path / "set")
    assert [len(record) for record in records] == [5, 160, 160, 160, 13, 1]
    assert [record.terminal for record in records] == [False, True, False, False, False, False]
    for column, name in enumerate(("frames", "actions", "rewards")):
        got = np.concatenate([getattr(record, name) for record in records])
        wanted = np.concatenate([episode[column] for episode in played])
        assert got.dtype == wanted.dtype and np.array_equal(got, wanted), name
    metadata = read_metadata(tmp_path / "set")
    assert (metadata.environment, metadata.fps, metadata.frame_shape) == ("mine", 12, (6, 10, 3))
    assert metadata.actions == space


def test_added_arrays_are_copied(tmp_path):
    frame, action = np.zeros((4, 4, 3), np.uint8), CONTROLS.noop
    with EpisodeWriter(tmp_path / "set", CONTROLS) as writer:
        for step in range(3):
            frame[:], action[0] = step, step
            writer.add(frame, action)
    (record,) = records_of(tmp_path / "set")
    assert record.frames[:, 0, 0, 0].tolist() == record.actions[:, 0].tolist() == [0, 1, 2]
    assert record.rewards is None and record.terminal is None


def test_second_writer_appends_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(episode_writer, "RECORDS_PER_SHARD", 3)
    space = ActionSpace(names=["noop", "right"], keys=[[], ["RIGHT"]], acting=[0, 1])  # of lists
    for seed in (0, 1):
        with EpisodeWriter(tmp_path / "set", space) as writer:
            write_episodes(writer, [4] * 7, seed)
    names = [path.name for path in split_shards(tmp_path / "set", "train")]
    assert names == [f"data_{number:04d}.array_record" for number in range(6)]
    assert len(records_of(tmp_path / "set")) == 14
    assert read_metadata(tmp_path / "set").actions == space and space.noop == 0


@pytest.mark.parametrize("unfinished, kept", [(1, []), (160, [160]), (161, [160])])
def test_error_keeps_complete_records(tmp_path, unfinished, kept):
    with pytest.raises(RuntimeError), EpisodeWriter(tmp_path / "set", unnamed_actions(2)) as writer:
        write_episodes(writer, [4, 5])
        for _ in range(unfinished):
            writer.add(np.zeros((6, 10, 3), np.uint8), 0)
        raise RuntimeError
    assert [len(record) for record in records_of(tmp_path / "set")] == [4, 5, *kept]
    assert not list((tmp_path / "set").rglob("*.tmp"))


def test_killed_writer_leaves_complete_shards(tmp_path):
    program = (
        "import numpy as np; from data import ActionSpace, EpisodeWriter, episode_writer\n"
        "episode_writer.RECORDS_PER_SHARD = 5; rng = np.random.default_rng(0)\n"
        f"with EpisodeWriter({str(tmp_path / 'set')!r}, ActionSpace(('a', 'b'), ((), ('B',)), (0, 1))) as writer:\n"
        "    while True:\n"
        "        writer.add(rng.integers(0, 256, (8, 8, 3), np.uint8), 0)\n"
    )
    for _ in range(2):
        before = len(list((tmp_path / "set").rglob("*.array_record")))
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "set").rglob("*.array_record"))) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        records = records_of(tmp_path / "set")
        assert len(records) % 5 == 0 and len(records) >= 5 * (before + 2)
        assert {len(record) for record in records} == {160}
    with EpisodeWriter(tmp_path / "set", read_metadata(tmp_path / "set").actions) as writer:
        writer.add(np.zeros((8, 8, 3), np.uint8), 1)
    assert not list((tmp_path / "set").rglob("*.tmp"))


def test_mistakes(tmp_path):
    frame = np.zeros((4, 4, 3), np.uint8)
    for bad, action, message in (
        (frame[..., 0], 0, r"expected \(height, width, 3\)"),
        (frame.astype(float), 0, "the frame is float64"),
        (frame, 2, "the action is 2: expected an integer from 0 to 1"),
        (frame, 0.5, "the action is 0.5"),
        (frame, [0, 1], "expected an integer"),
    ):
        with pytest.raises(ValueError, match=message), EpisodeWriter(tmp_path / "set", unnamed_actions(2)) as writer:
            writer.add(bad, action)
    for change, message in (
        ({"fps": 0}, "fps is 0"),
        ({"environment": "\x1b]0;"}, "environment is"),
        ({"caption": "\x1b]0;"}, "caption is"),
    ):
        with pytest.raises(ValueError, match=message):
            EpisodeWriter(tmp_path / "other", unnamed_actions(2), **change)
    assert not (tmp_path / "other").exists()
    with EpisodeWriter(tmp_path / "set", unnamed_actions(2)) as writer:
        writer.add(frame, 0)
        with pytest.raises(ValueError, match=r"expected uint8 \(4, 4, 3\)"):
            writer.add(np.zeros((4, 5, 3), np.uint8), 0)
    for changes, name in (({"actions": unnamed_actions(3)}, "actions"), ({"fps": 9}, "fps")):
        with (
            pytest.raises(ValueError, match=f"data set with other {name}"),
            EpisodeWriter(tmp_path / "set", **{"actions": unnamed_actions(2), **changes}) as writer,
        ):
            writer.add(frame, 0)
    with EpisodeWriter(tmp_path / "vectors", CONTROLS) as writer, pytest.raises(ValueError, match="6 finite numbers"):
        writer.add(frame, np.full(6, np.nan))


def test_example_of_the_guide(tmp_path, monkeypatch):
    """It is run as it stands there, in an empty folder."""
    guide = (ROOT / "docs" / "your_own_game.md").read_text()
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "EpisodeWriter" in code)
    assert len(example.strip().splitlines()) <= 16
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/your_own_game.md", "exec"), {})
    (folder,) = (tmp_path / "datasets").iterdir()
    for split in ("train", "val"):
        assert sum(map(len, records_of(folder, split))) > 300


def test_import_loads_no_heavy_packages():
    """No torch, no games, no video library."""
    program = "import sys, data; print(*(m for m in ('torch', 'av', 'gymnasium', 'PIL') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
