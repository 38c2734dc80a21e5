"""The runner of checks on a GPU, and a rehearsal of all of them on the CPU."""

import json
from functools import partial
from operator import itemgetter

import pytest
from tiny import succeeded

from dreamrun.benchmarks.checks import Check, run_checks, write_lines

FINE = Check("fine", "as expected", itemgetter("fine"))
OPTIONS = {"fine": (True, "yes"), "bad": (False, "7 of 5")}


def test_a_check_that_fails_raises_crashes_or_hangs_does_not_stop_the_others(tmp_path):
    checks = [
        Check("bad", "5", itemgetter("bad")),
        Check("raises", "", itemgetter("missing")),
        FINE,
        Check("crashes", "", partial(exec, "import os; os._exit(3)")),
        Check("hangs", "", partial(exec, "import time; time.sleep(600)"), secs=0.5),
        FINE,
    ]
    lines = list(run_checks(checks, OPTIONS, minutes=2.0, start_secs=5.0))
    assert [line.result for line in lines] == ["FAIL", "FAIL", "PASS", "FAIL", "FAIL", "PASS"]
    figures = [line.figure for line in lines]
    assert figures[:4] == ["7 of 5", "KeyError: 'missing'", "yes", "the process ended with code 3"]
    assert figures[4].startswith("stopped after")
    assert [line.result for line in run_checks([FINE], OPTIONS, minutes=0.0)] == ["not run"]

    write_lines(tmp_path, "torch 2", lines)
    assert json.loads((tmp_path / "checks.json").read_text())["checks"][0]["figure"] == "7 of 5"
    table = (tmp_path / "checks.md").read_text().splitlines()
    assert table[0] == "torch 2" and table[4] == f"| bad | FAIL | 7 of 5 | 5 | {lines[0].secs:.0f} |"


@pytest.mark.slow
def test_rehearsal_on_the_cpu(tmp_path, run_script):
    out = succeeded(run_script("gpu_check", "--device", "cpu", "--tiny", "--minutes", "20", "--out", tmp_path))
    assert "PASS" in out and "FAIL" not in out and "not run" not in out
