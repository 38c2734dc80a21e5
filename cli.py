"""How every command starts: options from a dataclass, one line and exit code 2 for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import tyro

MISTAKE = 2  # exit code


def run(function: Callable[[Any], None], config_class: type, description: str | None = None) -> None:
    """Parse the command line into `config_class`, call `function` with it, and exit.

    `ValueError` and `OSError` are what a user can get wrong: one line on standard error, exit code 2.
    With DREAMRUN_DEBUG=1 in the environment the traceback is shown as well.
    """
    try:
        function(tyro.cli(config_class, description=description))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("DREAMRUN_DEBUG"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(MISTAKE)
