"""Files of strangers with sizes, types and texts that would hang, exhaust memory, or write to a terminal.

Each is one line of error, exit code 2, in less than five CPU seconds and with a limited address space.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MAX_CPU_SECS = 5  # wall time depends on what else the machine does


@pytest.mark.parametrize(
    ("kind", "min_cases"), [("config", 40), ("metadata", 30), ("weights", 20), ("replay", 25), ("actions", 20)]
)
def test_hostile_files_are_one_line_of_error(kind, min_cases, tmp_path):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    }
    process = subprocess.run(
        [sys.executable, HERE / "run_cases.py", kind, tmp_path],
        env=environment, capture_output=True, text=True, timeout=900, cwd=tmp_path,
    )  # fmt: skip
    cases = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, f"after {cases[-1] if cases else 'no case'}: {process.stderr[-2000:]}"
    valid, *hostile = cases
    assert valid["name"] == "valid" and valid["code"] == 0, valid
    assert len(hostile) >= min_cases
    wrong = []
    for case in hostile:
        lines = [line for line in case["errors"].splitlines() if line.startswith("error: ")]
        one_line = case["code"] == 2 and len(lines) == 1 and len(lines[0]) < 1200
        is_safe = "Traceback" not in case["errors"] and "\x1b" not in case["errors"]
        if not one_line or not is_safe or case["cpu_secs"] > MAX_CPU_SECS:
            wrong.append(case)
    assert not wrong, json.dumps(wrong, indent=1)
