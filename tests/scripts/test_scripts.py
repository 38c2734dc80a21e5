"""The commands that make and inspect data sets, and the Slurm script."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from recordings import read_video
from tiny import refused, succeeded

from dreamrun.data.metadata import METADATA_FILE
from dreamrun.data.records import Record, encode_record
from dreamrun.data.shards import write_shard
from dreamrun.games.game import Game
from dreamrun.games.space import unnamed_actions


def write_moving_set(folder, lag):
    """Play in which RIGHT and LEFT shift the picture two pixels, `lag` frames after the action."""
    rng = np.random.default_rng(0)
    metadata = Game(frame_shape=(32, 32, 3), actions=unnamed_actions(3))
    described = metadata.to_dict() | {
        "action_names": ["noop", "left", "right"],
        "action_keys": [[], ["LEFT"], ["RIGHT"]],
    }
    (folder / "train").mkdir(parents=True)
    (folder / METADATA_FILE).write_text(json.dumps(described))
    scene = np.kron(rng.integers(0, 255, (8, 64)), np.ones((4, 4))).astype(np.uint8)
    payloads = []
    for _ in range(20):
        actions = rng.integers(0, 3, 100)
        speed = np.roll(np.array([0, -2, 2])[actions], lag)
        positions = 96 + np.concatenate(([0], np.cumsum(speed)[:-1]))
        frames = np.stack([scene[:, p : p + 32] for p in np.clip(positions, 0, 224)])
        payloads.append(encode_record(Record(np.repeat(frames[..., None], 3, -1), actions)))
    write_shard(folder / "train" / "data_0000.array_record", payloads)
    return folder


@pytest.mark.parametrize(("lag", "words"), [(0, "aligned: actions[t] leads"), (1, "NOT ALIGNED"), (-1, "NOT ALIGNED")])
def test_check_finds_misaligned_actions(run_script, tmp_path, lag, words):
    out = succeeded(run_script("visualize_dataset", "--data", write_moving_set(tmp_path / "set", lag), "--check"))
    assert words in out
    assert lag == 0 or f"{lag:+d} frames" in out
    assert "20 records, 2000 frames, 0 bad" in out and "val: none" in out


def test_check_counts_what_is_bad(run_script, tmp_path):
    folder = write_moving_set(tmp_path / "set", 0)
    (folder / "train" / "data_0001.array_record").write_bytes(b"not a shard")
    out = succeeded(run_script("visualize_dataset", "--data", folder, "--check"))
    assert "1 bad" in out and "data_0001.array_record is not a complete ArrayRecord file" in out


def test_preview_of_a_set_and_of_a_shard(run_script, tmp_path, pong_set):
    shard = next((pong_set / "train").glob("*.array_record"))
    for source in (("--data", pong_set), ("--shard", shard)):
        out = succeeded(run_script("visualize_dataset", *source, "--num-episodes", 2, "--output", "preview.mp4"))
        assert len(read_video(tmp_path / "preview.mp4")) == int(out.split(" frames")[0].split()[-1])
        (tmp_path / "preview.mp4").unlink()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("either --data DIR or --shard FILE",)),
        (("--data", "x"), ("nothing to do",)),
        (("--data", "x", "--check"), ("no data set at x",)),
        (("--shard", "x", "--output", "p.mp4"), ("no shard at x",)),
        (("--shard", "text.array_record", "--output", "p.mp4"), ("not a complete ArrayRecord file",)),
    ],
)
def test_visualize_mistakes(run_script, tmp_path, options, words):
    (tmp_path / "text.array_record").write_text("hello")
    refused(run_script("visualize_dataset", *options), *words)
    assert not (tmp_path / "p.mp4").exists()


def test_slurm_script_starts_torchrun_on_every_node(tmp_path):
    """Fake commands stand for the cluster's."""
    commands = {"srun": 'printf "%s\\n" "$@"', "scontrol": "printf 'node7\\nnode8\\n'"}
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "99"}
    script = Path(__file__).parents[2] / "scripts" / "train.slurm"
    run = subprocess.run(
        ["bash", script, "--data", "a set"],
        cwd=tmp_path, env={**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.splitlines() == [
        "--kill-on-bad-exit=1", "torchrun", "--nnodes=2", "--nproc-per-node=gpu", "--rdzv-backend=c10d",
        "--rdzv-endpoint=node7:29500", "--rdzv-id=99", "--max-restarts=3", "train_world_model.py",
        "--resume", "auto", "--data", "a set",
    ]  # fmt: skip
