"""Run a table of hostile files through a command, in one process with little memory. Prints a JSON line for each case.

python tests/hostile/run_cases.py KIND FOLDER
"""

import contextlib
import io
import json
import resource
import signal
import sys
from pathlib import Path

import torch

from dreamrun import cli

sys.path.insert(0, str(Path(__file__).parent))
from hostile_cases import KINDS

MEMORY_BYTES = 2**30  # beyond what the process has mapped after a valid case
HANG_SECS = 60  # of wall time, on a machine that is busy


class Hang(BaseException):
    """A case did not end in time."""


def limit_memory() -> None:
    """Limit the address space to what is mapped now and MEMORY_BYTES."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES,) * 2)


def cpu_secs() -> float:
    """CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_command(main, arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a command. An exception that is not caught by it gives code 1."""
    sys.argv = ["command", *map(str, arguments)]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.run(main)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except (Exception, Hang) as error:
            code = 1
            print(f"Traceback: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
    return code, errors.getvalue()


def main() -> None:
    """Prepare all files, then run the case named `valid` and all others."""

    def on_alarm(*_):
        raise Hang

    kind, folder = KINDS[sys.argv[1]], Path(sys.argv[2])
    torch.set_num_threads(1)
    prepared = kind(folder)
    signal.signal(signal.SIGALRM, on_alarm)
    for name, (command_main, arguments) in prepared.items():
        start = cpu_secs()
        signal.alarm(HANG_SECS)
        code, errors = run_command(command_main, arguments)
        signal.alarm(0)
        case = {"name": name, "code": code, "errors": errors[:5000], "cpu_secs": cpu_secs() - start}
        print(json.dumps(case), flush=True)
        if name == "valid":  # after it has started all threads, whose stacks and heaps count
            limit_memory()


if __name__ == "__main__":
    main()
