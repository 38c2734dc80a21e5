"""What a command does before its slow imports: it sets OpenMP defaults and answers Ctrl-C.

Importing this module does both. `scripts/__init__.py` and `cli.py` import it before anything else.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED_EXIT_CODE = 130
# How often a waiting OpenMP thread looks for work before it sleeps. With the library's default, 300 000, a waiting
# thread on busy cores takes the time of the thread that it waits for. With no looks at all (OMP_WAIT_POLICY=passive)
# threads on idle cores sleep too often. docs/benchmarks.md has figures.
SPIN_COUNT = 3000


def raise_on_interrupt() -> bool:
    """Let Ctrl-C raise KeyboardInterrupt from now on. False if this process does not run one of our commands."""
    if signal.getsignal(signal.SIGINT) is not _exit:
        return False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return True


def _exit(_number: int, _frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"stopped\n")
    os._exit(INTERRUPTED_EXIT_CODE)  # SystemExit could end in a library's `except`


def _is_command() -> bool:
    """Whether this process runs one of the project's commands: no test, and no worker process of a command."""
    is_module = sys.argv[:1] == ["-m"]  # so it is while `python -m scripts.NAME` imports the package `scripts`
    main_file = Path(getattr(sys.modules["__main__"], "__file__", None) or "nothing/at/all")
    # `dreamrun`, or a file beside this one: `python train_world_model.py` and `python -m dreamrun`
    return is_module or main_file.name == "dreamrun" or main_file.resolve().parent == Path(__file__).resolve().parent


# The OpenMP library reads the variable once, when torch is imported. The user may have chosen.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if the shell ignores it
    signal.signal(signal.SIGINT, _exit)  # at once: nothing is to be cleaned up while libraries are imported
