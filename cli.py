"""The start of every command: parse options into a dataclass; print a user's mistake as one line, exit code 2."""

from __future__ import annotations

from dreamrun import startup  # isort: skip  before all slow imports

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import tyro

from dreamrun.games.printable import printable

ERROR_EXIT_CODE = 2  # for a user's mistake
MAX_ERROR_CHARS = 1000  # of the line that is printed
# Old spellings of options -> today's. The old spellings still work, but no help text shows them.
RENAMED_OPTIONS = {
    "--own-frames": "--scheduled-sampling",
    "--recompute": "--activation-checkpointing",
    "--no-recompute": "--no-activation-checkpointing",
    "--drift-dreams": "--num-long-rollouts",
}


class _UsageError(Exception):
    """The command line cannot be parsed, or its values are not valid together."""


def _print_error(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def run(
    function: Callable[[Any], None],
    config_class: type,
    description: str | None = None,
    print_usage_error: Callable[[str], None] = _print_error,
) -> None:
    """Parse the command line into `config_class`, call `function` with it, and exit.

    `ValueError` and `OSError` are mistakes of the user: one line on standard error, exit code 2.
    With DREAMRUN_DEBUG=1 in the environment the traceback is shown as well.

    Args:
        print_usage_error: prints a mistake in the command line. Under torchrun all ranks find the same one, so training
            passes a function that prints it once.
    """
    is_process = False  # whether this is the command's own process, in which Ctrl-C was handled since its start
    try:
        is_process = startup.raise_on_interrupt()
        function(_parse(config_class, description))
        if is_process:
            sys.stdout.flush()
            startup.exit_on_interrupt()  # Python may take a second to end
    except KeyboardInterrupt:
        if is_process:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C twice must not give a traceback
        if os.environ.get("RANK", "0") == "0":
            print("stopped", file=sys.stderr)
        # Python remembers an interrupt inside of `exec`, such as of a dataclass that is made, even if it is caught. It
        # would end itself with SIGINT in place of the exit code. The next `exec` makes it forget.
        exec("")
        sys.exit(startup.INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except _UsageError as error:
        print_usage_error(_one_line(str(error)))
        sys.exit(ERROR_EXIT_CODE)
    except (ValueError, OSError) as error:
        if os.environ.get("DREAMRUN_DEBUG"):
            raise
        _print_error(_one_line(str(error)))
        sys.exit(ERROR_EXIT_CODE)


def _parse(config_class: type, description: str | None) -> Any:
    """Parse the command line with tyro, but report a mistake in one line in place of tyro's framed box.

    Raises:
        _UsageError: the command line is wrong.
        SystemExit: after --help was printed.
    """
    message = io.StringIO()
    if description:  # keep every example on its own line: tyro joins lines that no empty line separates
        description = re.sub(r"(?<!\n)\n(?!\n)", "\n\n", description)
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(config_class, description=description, args=[_rename_option(word) for word in sys.argv[1:]])
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"^│ ─+ │$", "; ", message.getvalue(), flags=re.MULTILINE)
        text = re.sub(r"^╭.*╮$|[│╰╯─]|Error parsing \w+Config: ", "", text, flags=re.MULTILINE)
        raise _UsageError(text) from None
    except ValueError as error:  # of a config's __post_init__
        if os.environ.get("DREAMRUN_DEBUG"):
            raise
        raise _UsageError(str(error)) from None


def _rename_option(word: str) -> str:
    """Replace the old spelling of an option, `--name` or `--name=value`; other words stay as they are."""
    name, equals, value = word.partition("=")
    return RENAMED_OPTIONS.get(name.replace("_", "-"), name) + equals + value if name.startswith("--") else word


def _one_line(message: str) -> str:
    line = printable(" ".join(message.split()).replace(" ; ", "; "))  # it may quote a file of a stranger
    return line if len(line) <= MAX_ERROR_CHARS else f"{line[:MAX_ERROR_CHARS]}..."
