"""Two trainings cannot write into one run folder."""

import os

import pytest
from tiny import refused, succeeded

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


def test_a_training_refuses_the_folder_of_another(train_command, tmp_path):
    run = tmp_path / "run"
    with lock_run_folder(run):
        in_use = f"{run} is in use by another training, process {os.getpid()} on"
        refused(train_command("--max-steps", 2), in_use, "--out")
    succeeded(train_command("--max-steps", 2))
    assert not (run / LOCK_FILE).exists()


def test_a_file_of_that_name_that_is_no_lock_stays(tmp_path):
    (tmp_path / "lock").write_text("mine")
    with pytest.raises(ValueError, match="is a file of yours"), lock_run_folder(tmp_path):
        pytest.fail("entered")
    assert (tmp_path / "lock").read_text() == "mine"
