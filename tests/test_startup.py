"""What happens before the slow imports of a command."""

import os
import subprocess
import sys

import pytest
from runs import ROOT, take_ctrl_c

SHOW = """
import {module}, os, sys
print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


def environment_after(module: str, **variables) -> list[str]:
    """OMP_WAIT_POLICY and GOMP_SPINCOUNT after an import, and whether torch was imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", SHOW.format(module=module)]
    output = subprocess.run(command, cwd=ROOT, env=environment | variables, capture_output=True, text=True, check=True)
    return output.stdout.split()


@pytest.mark.parametrize("module", ["scripts", "dreamrun.cli"])
def test_openmp_threads_do_not_spin_for_long(module):
    """The setting is made before torch is imported, and a user's own choice stays."""
    assert environment_after(module) == ["None", "3000", "False"]
    assert environment_after(module, OMP_WAIT_POLICY="active") == ["active", "None", "False"]
    assert environment_after(module, GOMP_SPINCOUNT="5") == ["None", "5", "False"]


def test_commands_import_it_first():
    """`python -m scripts.NAME` imports the package first; training imports `cli` before anything slow."""
    first_import = next(line for line in (ROOT / "cli.py").read_text().splitlines() if line.startswith("from dreamrun"))
    assert first_import.startswith("from dreamrun import startup")
    lines = (ROOT / "train_world_model.py").read_text().splitlines()
    assert lines.index("from dreamrun import cli") < next(
        i for i, line in enumerate(lines) if line.startswith("from dreamrun.training")
    )


def test_importing_a_command_leaves_ctrl_c_alone():
    """In a test, or in another program, KeyboardInterrupt is raised as ever."""
    code = "import scripts.export_checkpoint, signal; print(signal.getsignal(2) is signal.default_int_handler)"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, preexec_fn=take_ctrl_c
    )
    assert output.stdout.strip() == "True"


@pytest.mark.parametrize("interrupt", ["raise KeyboardInterrupt", "exec('raise KeyboardInterrupt')"])
def test_interrupted_command_has_its_exit_code_wherever_it_was(tmp_path, interrupt):
    """Python ends itself with SIGINT if the interrupt came inside of `exec`, which libraries use."""
    lines = (
        "import dataclasses",
        "from dreamrun import cli",
        "@dataclasses.dataclass",
        "class Config: pass",
        "def main(config: Config):",
    )
    (tmp_path / "command.py").write_text("\n".join((*lines, f"    {interrupt}", "cli.run(main)")))
    output = subprocess.run([sys.executable, "-m", "command"], cwd=tmp_path, capture_output=True, text=True)
    assert (output.returncode, output.stderr) == (130, "stopped\n")
