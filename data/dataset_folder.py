"""The folder of a data set while it is made: it grows in `OUT.partial` and is renamed to `OUT` when it is complete.

Collection and import both use it, so an interrupted one can be continued by the same command.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from dreamrun.data.index import INDEX_FILE, is_split_name
from dreamrun.data.metadata import METADATA_FILE, write_metadata
from dreamrun.data.shards import SUFFIX
from dreamrun.games.json_file import read_json

JOURNAL_FILE = "imported.jsonl"  # of an import: one line per recording that is complete


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
    if partial.is_symlink() or partial.exists():
        problem = _reason_to_keep(partial, is_partial=True)
        if problem:
            raise ValueError(f"{partial} is in the way and is not deleted, because {problem}: move it away")
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # damaged metadata.json: start over
            if read_json(partial / METADATA_FILE)[key] == json.loads(json.dumps(metadata[key])):
                return partial
        shutil.rmtree(partial)
    write_metadata(partial, metadata)
    return partial


def finish_partial(partial: Path, out: Path, metadata: dict, overwrite: bool) -> None:
    """Write the final metadata and rename the complete data set to `out`, in place of what `out` held.

    Raises:
        ValueError: something came to `out` meanwhile that may not be replaced; the complete data set is in `partial`.
    """
    write_metadata(partial, metadata)
    try:
        check_free(out, overwrite)
    except ValueError as error:
        raise ValueError(f"{error} (the new data set is complete, in {partial})") from None
    out = out.resolve()
    if out.is_dir():
        shutil.rmtree(out)
    partial.rename(out)


def check_free(out: Path, overwrite: bool) -> None:
    """Check that a data set may be written to `out`.

    With `overwrite` it may replace a data set, and nothing else.

    Raises:
        ValueError: `out` is a file, a mount point, or a folder that is not empty and may not be replaced.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise ValueError(f"{out} is not empty: choose another out folder, or set overwrite to replace it")
    if out.resolve().is_mount():  # Path(".") seems to be one
        raise ValueError(f"{out} is a mount point: choose a folder below it")
    if out.is_dir() and any(out.iterdir()):
        problem = _reason_to_keep(out)
        if problem:
            raise ValueError(f"{out} is not replaced, because {problem}: choose another out folder")


def _reason_to_keep(folder: Path, is_partial: bool = False) -> str | None:
    """Why a folder may not be deleted; None if it is a data set and nothing else.

    Args:
        is_partial: it may also be the folder of an unfinished data set, with temporary files and without shards.
    """
    if folder.is_symlink():
        return f"it is a link to {folder.resolve()}"
    if not folder.is_dir():
        return "it is not a folder"
    resolved = folder.resolve()
    if Path.cwd().resolve().is_relative_to(resolved):
        return "it is the current folder or holds it"
    if Path.home().resolve().is_relative_to(resolved):
        return "it is a home folder or holds one"
    num_shards, has_metadata = 0, False
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            return f"it holds the link {path.name}"
        if path.is_dir():
            foreign = next((each for each in sorted(path.iterdir()) if not _is_split_file(each)), None)
            if foreign:
                return f"it holds {path.name}/{foreign.name}, which is no part of a data set"
            if not is_split_name(path.name):
                return f"it holds {path.name}, which is no part of a data set"
            num_shards += sum(1 for _ in path.glob(f"*{SUFFIX}"))
        elif path.name == METADATA_FILE:
            has_metadata = _describes_data(path)
        elif path.name not in (JOURNAL_FILE, f"{METADATA_FILE}.tmp"):
            return f"it holds {path.name}, which is no part of a data set"
    return None if num_shards or has_metadata or is_partial else "it is not a data set"


def _is_split_file(path: Path) -> bool:
    """Whether a file in the folder of a split is one that this package writes."""
    name = path.name.removesuffix(".tmp")
    return path.is_file() and not path.is_symlink() and (name.endswith(SUFFIX) or name == INDEX_FILE)


def _describes_data(path: Path) -> bool:
    """Whether a metadata.json is of a data set: programs of other kinds have files of this name too."""
    with contextlib.suppress(OSError, ValueError):
        values = read_json(path)
        return isinstance(values, dict) and bool({"frame_shape", "num_actions", "action_names"} & values.keys())
    return False


def _partial_folder(out: Path) -> Path:
    out = out.resolve()  # a link to a folder on another disk stays a link
    return out.with_name(out.name + ".partial")
