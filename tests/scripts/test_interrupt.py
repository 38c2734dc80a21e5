"""Ctrl-C at any moment of a command: exit code 130, one line, no traceback, and nothing half-written."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recordings import play, write_video
from runs import ROOT, take_ctrl_c

COMPLETE, INTERRUPTED = "complete", "interrupted"  # output folders
MAX_SECS = 40.0  # the moments lie in so many seconds from the start
CHECKPOINT = ROOT / "checkpoints" / "pong-pico"
TRAIN = ("--preset", "pico", "--batch-size", 4, "--max-steps", 12, "--val-batches", 1, "--epoch-clips", 8)
TRAIN += ("--checkpoint-every", 3, "--val-every", 6, "--wandb", "off", "--resume", "auto")
INFER = ("--num-samples", 3)
EVALUATE = ("--quick", "--num-clips", 2, "--num-frames", 4, "--num-states", 2, "--num-long-rollouts", 1)


def arguments(name: str, data: Path, videos: Path, out: Path) -> tuple:
    """The command line of a command that writes into the folder `out`."""
    if name == "train":
        return ("train_world_model.py", "--data", data, "--out", out / "run", *TRAIN)
    options = {
        "collect": ("--env", "pong", "--records", 300, "--val-records", 9, "--workers", 2, "--out", out / "set"),
        "import_video": ("--videos", videos, "--actions", "none", "--workers", 2, "--out", out / "set"),
        "infer": (
            "--checkpoint",
            CHECKPOINT,
            "--data",
            data,
            *INFER,
            "--output",
            out / "dream.mp4",
            "--grid",
            out / "a.png",
        ),
        "evaluate": ("--checkpoint", CHECKPOINT, "--data", data, *EVALUATE, "--output", out / "report"),
        "export_checkpoint": ("--checkpoint", CHECKPOINT, "--out", out / "exported"),
        "benchmark": ("rollout", "--preset", "pico", "--frames", 150),
    }
    return ("-m", f"scripts.{name}", *options[name])


def start(*parts) -> subprocess.Popen:
    """Start a command in a process group of its own, which a terminal's Ctrl-C reaches as a whole."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_API_KEY": ""}
    return subprocess.Popen(
        [sys.executable, *map(str, parts)], cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=take_ctrl_c,
    )  # fmt: skip


def wait_for_imports(process: subprocess.Popen) -> None:
    """Wait until the process loads the first library from site-packages."""
    while process.poll() is None and "site-packages" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.002)


def interrupt(process: subprocess.Popen) -> tuple[int, str]:
    """Press Ctrl-C; the exit code and what the command wrote to standard error."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, errors


def assert_stopped(code: int, errors: str, out: Path) -> None:
    assert code == 130 and errors.splitlines()[-1] == "stopped", f"exit code {code}: {errors}"
    assert "Traceback" not in errors and "Exception ignored" not in errors, errors
    assert not [path for path in out.rglob("*.tmp") if not path.is_relative_to(out / "set.partial")]


def files(folder: Path) -> dict[str, bytes]:
    """The outputs by name. Of a run's checkpoints only the last: an interrupted run saves some more on its way."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".array_record", ".safetensors", ".mp4", ".png")]
    last = (folder / "run" / "checkpoints" / "latest").resolve()
    paths = [path for path in paths if path.name != "metrics.png" and ("run" not in path.parts or path.parent == last)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        write_video(folder / f"{number}.mp4", play(900, seed=number)[0])
    return folder


@pytest.mark.parametrize("name", ["collect", "infer"])
def test_interrupted_while_importing_and_while_working(name, pong_set, videos, tmp_path):
    process = start(*arguments(name, pong_set, videos, tmp_path))
    wait_for_imports(process)
    assert_stopped(*interrupt(process), tmp_path)
    assert not list(tmp_path.iterdir())

    process = start(*arguments(name, pong_set, videos, tmp_path))
    read = b""
    while b"ing" not in read and process.poll() is None:  # the progress bar: collecting, dreaming
        read += os.read(process.stderr.fileno(), 1000)
    assert_stopped(*interrupt(process), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"set.partial"}  # the same command continues from there


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["collect", "import_video", "train", "infer", "evaluate", "export_checkpoint", "benchmark"]
)
def test_interrupted_at_ten_moments(name, pong_set, videos, tmp_path):
    """Afterwards the same command gives what it gives without any interruption."""
    complete, interrupted = tmp_path / COMPLETE, tmp_path / INTERRUPTED
    process = start(*arguments(name, pong_set, videos, complete))
    wait_for_imports(process)
    start_time = time.monotonic()
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors
    seconds = min(MAX_SECS, time.monotonic() - start_time)

    num_stopped = 0
    for moment in range(10):
        process = start(*arguments(name, pong_set, videos, interrupted))
        wait_for_imports(process)
        time.sleep(seconds * moment / 10)
        code, errors = interrupt(process)
        if code == 0:  # it has ended before; on a busy machine the times vary
            shutil.rmtree(interrupted, ignore_errors=True)
            continue
        assert_stopped(code, errors, interrupted)
        num_stopped += 1
    assert num_stopped >= 5
    process = start(*arguments(name, pong_set, videos, interrupted))
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors
    assert files(interrupted) == files(complete)
