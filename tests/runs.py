"""Start training in other processes, and compare what it writes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from dreamrun.data.metrics_log import read_metrics
from dreamrun.model import WorldModel

ROOT = Path(__file__).parent.parent
LOG, TIMES = "metrics.jsonl", ("train/clips_per_sec", "train/data_wait")
FEW = ("--preset", "smallest", "--batch-size", "4", "--log-every", "1", "--val-every", "10", "--rollout-every", "20")
FEW += ("--val-batches", "2", "--checkpoint-every", "5", "--warmup-steps", "2", "--wandb", "off", "--clip-stride", "10")
FEW += ("--epoch-clips", "8", "--rollout-frames", "8", "--no-plot")


def values(run: Path, name: str) -> dict[int, float]:
    """A metric, by step."""
    return {line["step"]: line[name] for line in read_metrics(run / LOG) if name in line}


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return WorldModel.from_pretrained(path).state_dict()


def assert_same_run(run: Path, other: Path) -> None:
    """Both runs logged the same metrics, bit for bit, once at each step, and have the same weights."""
    lines, other_lines = (
        [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(folder / LOG)]
        for folder in (run, other)
    )
    assert lines == other_lines
    assert {"train/loss", "val/loss", "rollout/psnr_1", "epoch/val_loss", "epoch/psnr"} <= set().union(*lines)
    steps = [line["step"] for line in read_metrics(run / LOG) if "train/loss" in line]
    assert steps == sorted(set(steps))
    weights, other_weights = (weights_of(folder / "checkpoints" / "latest") for folder in (run, other))
    assert all(torch.equal(weights[name], other_weights[name]) for name in other_weights)


def take_ctrl_c() -> None:
    """For `preexec_fn`: a process that a shell starts in the background inherits that it ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(out: Path, data: Path, *options, ranks: int = 1, max_restarts: int = 0, seen: Path | None = None):
    """Start training in another process, or in several under torchrun.

    Args:
        seen: each rank writes the clips that it trains on to `SEEN.RANK`.
    """
    run = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={max_restarts}")
    command = [sys.executable, *(run if ranks > 1 else ()), ROOT / "tests" / "tiny_run.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if seen:
        environment["SEEN"] = str(seen)
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115  a file, because a pipe that nobody reads fills up
    process = subprocess.Popen(
        [str(part) for part in (*command, "--data", data, "--out", out, *FEW, *options)],
        env=environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=take_ctrl_c,
    )  # fmt: skip
    process.log = log
    return process


def children(process: subprocess.Popen) -> list[int]:
    """Process ids of the ranks that torchrun has started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def ended(process: subprocess.Popen, timeout_secs: float = 600) -> str:
    """Wait until a process has ended, and return what it printed.

    If it hangs, the stacks of its ranks are printed too, everything is killed, and AssertionError is raised.
    """
    try:
        process.wait(timeout_secs)
    except subprocess.TimeoutExpired:
        ranks = children(process)
        for number in (signal.SIGUSR1, signal.SIGKILL):  # tests/tiny_run.py prints the stacks on SIGUSR1
            for pid in ranks:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(2)
            process.kill()
        raise AssertionError(f"still running after {timeout_secs} seconds:\n{_read(process.log)}") from None
    return _read(process.log)


def _read(log) -> str:
    log.seek(0)
    return log.read()


def finish(process: subprocess.Popen, timeout_secs: float = 600) -> str:
    """As `ended`, but the process must succeed."""
    output = ended(process, timeout_secs)
    assert process.returncode == 0, output
    return output
