"""Two trainings cannot write into one run folder."""

import os
import time

import pytest
from runs import ended, start, values
from tiny import assert_one_line

from dreamrun.data.run_lock import LOCK_FILE, lock_run_folder


def test_second_lock_is_refused_until_the_first_is_released(tmp_path):
    run = tmp_path / "run"
    for _ in range(2):
        with lock_run_folder(run):
            message = f"in use by another training, process {os.getpid()} on .* --out"
            with pytest.raises(ValueError, match=message), lock_run_folder(run):
                pass
            assert (run / LOCK_FILE).exists()
        assert not run.exists()  # nothing was written


def test_file_of_a_lock_whose_process_was_killed_does_not_matter(tmp_path):
    (tmp_path / LOCK_FILE).write_text("process 1 on elsewhere")
    with lock_run_folder(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / LOCK_FILE).read_text()
    assert not list(tmp_path.iterdir())


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


def test_a_file_of_that_name_that_is_no_lock_stays(tmp_path):
    (tmp_path / "lock").write_text("mine")
    with pytest.raises(ValueError, match="is a file of yours"), lock_run_folder(tmp_path):
        pytest.fail("entered")
    assert (tmp_path / "lock").read_text() == "mine"
