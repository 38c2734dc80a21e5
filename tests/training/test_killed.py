"""Training processes that are killed or asked to stop."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from runs import assert_same_run, children, ended, finish, start, values

from dreamrun.training.state import find_start, load_state


def wait_until(condition, process: subprocess.Popen, timeout_secs: float = 900) -> bool:
    """Whether `condition()` became true while the process ran."""
    deadline = time.monotonic() + timeout_secs
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)
    return False


def steps_done(run: Path) -> int:
    with suppress(OSError):
        return (run / "metrics.jsonl").read_text().count("train/loss")
    return 0


@pytest.mark.slow
def test_run_killed_ten_times_equals_an_unbroken_run(pong_set, tmp_path):
    """Killed at random moments, half of them while it saves."""
    options = ("--max-steps", 500, "--epochs", 100, "--rollout-every", 100)
    rng, run = random.Random(0), tmp_path / "run"
    finish(start(tmp_path / "unbroken", pong_set, *options))
    killed_saving = 0
    for kill in range(10):
        process, before = start(run, pong_set, *options, "--resume", "auto"), steps_done(run)
        target = before + rng.randint(1, 25)
        assert wait_until(lambda target=target: steps_done(run) >= target, process)
        time.sleep(rng.uniform(0, 0.02))  # anywhere in a step
        if kill % 2:
            assert wait_until(lambda: list((run / "checkpoints").glob(".step_*.tmp")), process)
        process.kill()
        process.wait()
        killed_saving += bool(list((run / "checkpoints").glob(".step_*.tmp")))
    assert killed_saving >= 1
    assert 0 < steps_done(run) < 500
    finish(start(run, pong_set, *options, "--resume", "auto"))
    assert_same_run(run, tmp_path / "unbroken")
    assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
def test_torchrun_restarts_after_one_of_two_ranks_is_killed(pong_set, tmp_path):
    options, run = ("--max-steps", 400, "--epochs", 100), tmp_path / "run"
    finish(start(tmp_path / "unbroken", pong_set, *options, ranks=2))
    process = start(run, pong_set, *options, ranks=2, max_restarts=3)
    for kill in range(2):
        assert wait_until(lambda kill=kill: 100 * (kill + 1) < steps_done(run) and children(process), process)
        os.kill(children(process)[kill], signal.SIGKILL)
        time.sleep(1.0)
    output = finish(process)
    assert output.count("resumed from") == 2
    assert_same_run(run, tmp_path / "unbroken")


TWO_RANKS = ("--max-steps", 40, "--epochs", 100, "--rollout-every", 40)


@pytest.fixture(scope="module")
def unbroken(pong_set, tmp_path_factory) -> Path:
    """A run of two ranks that nobody killed."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(run, pong_set, *TWO_RANKS, ranks=2))
    return run


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("moment", ["process start", "imports", "first step", "middle", "saving"])
def test_torchrun_starts_both_ranks_again(pong_set, tmp_path, unbroken, moment, victim):
    """Whenever a rank is killed, the restarted ranks find each other, and the run ends like an unbroken one."""
    run = tmp_path / "run"
    process = start(run, pong_set, *TWO_RANKS, ranks=2, max_restarts=1)
    conditions = {
        "process start": lambda: len(children(process)) == 2,
        "imports": lambda: len(children(process)) == 2,
        "first step": lambda: steps_done(run) >= 1,
        "middle": lambda: steps_done(run) >= 18,
        "saving": lambda: list((run / "checkpoints").glob(".step_*.tmp")),
    }
    assert wait_until(conditions[moment], process)
    if moment == "imports":
        time.sleep(1 + 2 * victim)
    os.kill(children(process)[victim], signal.SIGKILL)
    output = finish(process)
    assert output.count("done: ") == 1, output
    assert_same_run(run, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_saves_when_it_is_asked_to_stop(pong_set, tmp_path, number):
    run = tmp_path / "run"
    process = start(run, pong_set, "--max-steps", 100000, "--checkpoint-every", 100000, ranks=2)
    assert wait_until(lambda: steps_done(run) > 20, process)
    process.send_signal(number)
    output = ended(process)
    assert process.returncode != 0 and output.count("stopped at step") == 1, output
    assert load_state(find_start("auto", run))["step"] == max(values(run, "train/loss"))
