"""Two trainings cannot write into one run folder."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from runs import ended, start, values
from tiny import assert_one_line

from dreamrun.training import run_lock
from dreamrun.training.run_lock import LOCK_FILE, RunLock


def write_lock(folder, **changes) -> None:
    """A lock of this process, with some fields changed."""
    (folder / LOCK_FILE).write_text(json.dumps({**run_lock._this_process(), "since": "today", **changes}))


def assert_taken_over(folder) -> None:
    with RunLock(folder):
        assert json.loads((folder / LOCK_FILE).read_text())["process"] == os.getpid()
    assert not list(folder.iterdir())


def test_second_lock_is_refused_until_the_first_is_released(tmp_path):
    with RunLock(tmp_path):
        content = (tmp_path / LOCK_FILE).read_text()
        message = f"is in use by another training, process {os.getpid()} on"
        with pytest.raises(ValueError, match=message), RunLock(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).read_text() == content
    assert_taken_over(tmp_path)


def test_lock_of_a_process_that_has_ended_is_taken_over(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    while run_lock._start_time(process.pid):  # it ends, and stays a zombie until it is waited for
        time.sleep(0.01)
    write_lock(tmp_path, process=process.pid)
    assert_taken_over(tmp_path)
    process.wait()
    write_lock(tmp_path, started="1")  # another process has got its number
    assert_taken_over(tmp_path)


def test_lock_of_another_machine_is_kept_while_its_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECS", 0.1)
    with RunLock(tmp_path), monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "elsewhere")
        with pytest.raises(ValueError, match="in use"), RunLock(tmp_path):
            pass
    write_lock(tmp_path, host="elsewhere")
    monkeypatch.setattr(run_lock, "STALE_SECS", 0.3)
    assert_taken_over(tmp_path)
    monkeypatch.setattr(run_lock, "STALE_SECS", 100.0)
    write_lock(tmp_path, host="elsewhere")
    os.utime(tmp_path / LOCK_FILE, (1, 1))
    assert_taken_over(tmp_path)


def test_earlier_attempt_of_the_same_torchrun_job_is_gone(tmp_path, monkeypatch):
    write_lock(tmp_path, host="elsewhere", torchrun="job 7")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 7")
    assert_taken_over(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"process": '])
def test_damaged_lock_is_taken_over(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    os.utime(tmp_path / LOCK_FILE, (1, 1))
    assert_taken_over(tmp_path)


def test_no_lock_is_left_on_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_lock.json, "dumps", full)
    with pytest.raises(OSError, match="No space left"), RunLock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_one_of_many_takes_a_lock_over(tmp_path):
    """Threads race for the lock of a process that has ended."""
    write_lock(tmp_path, started="1")
    won, barrier = [], threading.Barrier(8)

    def race():
        barrier.wait()
        try:
            lock = RunLock(tmp_path)
            lock.__enter__()
            won.append(lock)
        except ValueError:
            pass

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].__exit__()


def test_two_trainings_in_one_folder(train_command, tmp_path):
    """The second ends with one line; the first is not disturbed, and its folder can be used when it is killed."""
    run = tmp_path / "run"
    first = start(run, train_command.data, "--max-steps", 100000, "--val-every", 100000)
    while not (run / "metrics.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.05)
    code, _, err = train_command("--max-steps", 4, "--resume", "auto")
    assert_one_line(code, err, f"{run} is in use by another training, process {first.pid} on", "--out")
    first.kill()
    ended(first)
    assert values(run, "train/loss") and (run / LOCK_FILE).exists()
    done = max(values(run, "train/loss"))
    assert train_command("--max-steps", done + 4, "--resume", "auto")[0] == 0
    assert not (run / LOCK_FILE).exists()
