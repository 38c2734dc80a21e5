"""Read JSON files, which may come from strangers: bounded size and depth, one kind of error."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 * 2**20


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The parsed content of a JSON file.

    Raises:
        ValueError: the file is too large, nested too deeply, or not JSON.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        info = os.fstat(file.fileno())  # `read` allocates as many bytes as it may return
        data = file.read(1 + (min(info.st_size, max_bytes) if stat.S_ISREG(info.st_mode) else max_bytes))
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes / 2**20:g} MiB")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
