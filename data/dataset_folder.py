"""The folder of a data set while it is made: it grows in `OUT.partial` and is renamed to `OUT` when it is complete.

Collection and import both use it, so an interrupted one can be continued by the same command.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from data.metadata import METADATA_FILE, write_metadata


def begin_partial(out: Path, overwrite: bool, metadata: dict, key: str) -> Path:
    """Create the folder `OUT.partial`, or keep the one that an interrupted run with the same settings left behind.

    Args:
        metadata: of the future data set.
        key: the entry of `metadata` that holds the settings.

    Raises:
        ValueError: `out` may not be written to; see `check_free`.
    """
    check_free(out, overwrite)
    partial = _partial_folder(out)
    if partial.is_dir():
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # damaged metadata.json: start over
            if json.loads((partial / METADATA_FILE).read_text())[key] == json.loads(json.dumps(metadata[key])):
                return partial
        shutil.rmtree(partial)
    write_metadata(partial, metadata)
    return partial


def finish_partial(partial: Path, out: Path, metadata: dict) -> None:
    """Write the final metadata and rename the complete data set to `out`, in place of what `out` held."""
    out = out.resolve()
    write_metadata(partial, metadata)
    if out.is_dir():
        shutil.rmtree(out)
    partial.rename(out)


def check_free(out: Path, overwrite: bool) -> None:
    """Check that a data set may be written to `out`.

    Raises:
        ValueError: `out` is a file, a mount point, or a folder that is not empty and `overwrite` is false.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise ValueError(f"{out} is not empty: choose another out folder, or set overwrite to replace it")
    if out.is_mount():
        raise ValueError(f"{out} is a mount point: choose a folder below it")


def _partial_folder(out: Path) -> Path:
    out = out.resolve()  # a link to a folder on another disk stays a link
    return out.with_name(out.name + ".partial")
