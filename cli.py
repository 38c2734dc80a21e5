"""How every command starts: options from a dataclass, one line and exit code 2 for a user's mistake."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import tyro

MISTAKE = 2  # exit code
# Old spelling of an option -> the one of today. The old ones work and stand in no help text.
RENAMED_OPTIONS = {
    "--own-frames": "--scheduled-sampling",
    "--recompute": "--activation-checkpointing",
    "--no-recompute": "--no-activation-checkpointing",
}
LAST_WORD_SECS = 5.0  # torchrun ends all ranks when one has ended; so long the others leave rank 0 to say why


def run(function: Callable[[Any], None], config_class: type, description: str | None = None) -> None:
    """Parse the command line into `config_class`, call `function` with it, and exit.

    `ValueError` and `OSError` are what a user can get wrong: one line on standard error, exit code 2.
    With DREAMRUN_DEBUG=1 in the environment the traceback is shown as well.
    """
    try:
        function(_parse(config_class, description))
    except KeyboardInterrupt:
        if _is_first():
            print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        if os.environ.get("DREAMRUN_DEBUG"):
            raise
        _say(str(error))
        sys.exit(MISTAKE)


def _parse(config_class: type, description: str | None) -> Any:
    """tyro's parser, its framed messages brought down to a line."""
    message = io.StringIO()
    if description:  # a line of its own for each example, which tyro would join
        description = re.sub(r"(?<!\n)\n(?!\n)", "\n\n", description)
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(config_class, description=description, args=[_rename_option(word) for word in sys.argv[1:]])
    except SystemExit as stop:
        if stop.code:
            framed = re.sub(r"^│ ─+ │$", "; ", message.getvalue(), flags=re.MULTILINE)
            if _is_first():
                _say(re.sub(r"^╭.*╮$|[│╰╯─]|Error parsing \w+Config: ", "", framed, flags=re.MULTILINE))
            else:
                time.sleep(LAST_WORD_SECS)
            sys.exit(MISTAKE)
        raise


def _rename_option(word: str) -> str:
    """Today's spelling of an option, `--name` or `--name=value`; other words stay as they are."""
    name, equals, value = word.partition("=")
    return RENAMED_OPTIONS.get(name.replace("_", "-"), name) + equals + value if name.startswith("--") else word


def _is_first() -> bool:
    """Whether this is the one of torchrun's processes that tells what all are told."""
    return os.environ.get("RANK", "0") == "0"


def _say(message: str) -> None:
    print(f"error: {' '.join(message.split()).replace(' ; ', '; ')}", file=sys.stderr)
