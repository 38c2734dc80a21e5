"""Which recordings an import has completed, in the partial folder, so that an interrupted import can continue."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dreamrun.data.dataset_folder import JOURNAL_FILE


def append_to_journal(partial: Path, name: str, entry: dict) -> None:
    """Note that a recording is complete, and flush the note to disk."""
    with (partial / JOURNAL_FILE).open("a") as file:
        file.write(json.dumps({"name": name, **entry}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_journal(partial: Path) -> dict[str, dict]:
    """The entries of complete recordings by name. Ignores a line that was cut off when the import was killed."""
    entries = {}
    path = partial / JOURNAL_FILE
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        entries[entry.pop("name")] = entry
    return entries
