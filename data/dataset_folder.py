"""TODO."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from data.atomic import atomic_file
from data.metadata import METADATA_FILE


def begin_partial(out: Path, overwrite: bool, metadata: dict, key: str) -> Path:
    """The folder `OUT.partial` in which a data set grows; kept if it was begun by the same command.

    Args:
        metadata: of the data set to be, for its metadata.json.
        key: the part of it that tells the command.

    Raises:
        ValueError: there is something at `out` already.
    """
    check_free(out, overwrite)
    partial = _partial(out)
    if partial.is_dir():
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # whatever is wrong, it is begun anew
            if json.loads((partial / METADATA_FILE).read_text())[key] == json.loads(json.dumps(metadata[key])):
                return partial
        shutil.rmtree(partial)
    _write_metadata(partial, metadata)
    return partial


def _partial(out: Path) -> Path:
    out = out.resolve()  # a link to a larger disk stays one
    return out.with_name(out.name + ".partial")


def finish_partial(partial: Path, out: Path, metadata: dict) -> None:
    """The data set is whole: it appears at `out` at once."""
    out = out.resolve()
    _write_metadata(partial, metadata)
    if out.is_dir():
        shutil.rmtree(out)
    partial.rename(out)


def check_free(out: Path, overwrite: bool) -> None:
    """Raises ValueError if there is something at `out` that may not be replaced."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise ValueError(f"{out} is not empty: choose another --out, or replace it with --overwrite")
    if out.is_mount():
        raise ValueError(f"{out} is where a disk is mounted: choose a folder on it")


def _write_metadata(folder: Path, metadata: dict) -> None:
    with atomic_file(folder / METADATA_FILE) as temporary:
        temporary.write_text(json.dumps(metadata, indent=2) + "\n")
