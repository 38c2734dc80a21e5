"""The folder of a data set while it is made: it grows in `OUT.partial` and is renamed to `OUT` when it is complete.

Collection and import both use it, so an interrupted one can be continued by the same command.
"""

import contextlib
import json
import shutil
from pathlib import Path

from dreamrun.data.atomic import write_json
from dreamrun.data.index import INDEX_FILE
from dreamrun.data.metadata import METADATA_FILE
from dreamrun.data.shards import SUFFIX
from dreamrun.games.untrusted import read_json

JOURNAL_FILE = "imported.jsonl"  # of an import: one line per recording that is complete
_FILES = (METADATA_FILE, INDEX_FILE, JOURNAL_FILE, SUFFIX)  # the ends of all names in a data set


def begin_partial(out: Path, overwrite: bool, metadata: dict, key: str) -> Path:
    """Create the folder `OUT.partial`, or keep the one that an interrupted run with the same settings left behind.

    The settings are `metadata[key]`, of the future data set's metadata.
    """
    check_free(out, overwrite)
    out = out.resolve()  # a link to a folder on another disk stays a link
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        if problem := _reason_to_keep(partial):
            raise ValueError(f"{partial} is in the way and is not deleted, because {problem}: move it away")
        # Damaged metadata.json: start over.
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            before, now = read_json(partial / METADATA_FILE)[key], json.loads(json.dumps(metadata[key]))
            # An option that is off or not given may be newer than the folder.
            if {name: before.get(name) or None for name in now} == {name: now[name] or None for name in now}:
                return partial
        shutil.rmtree(partial)
    write_json(partial / METADATA_FILE, metadata)
    return partial


def finish_partial(partial: Path, out: Path, metadata: dict, overwrite: bool) -> None:
    """Write the final metadata and rename the complete data set to `out`, in place of what `out` held."""
    write_json(partial / METADATA_FILE, metadata)
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
    """
    if out.resolve().is_mount():
        raise ValueError(f"{out} is a mount point: choose a folder below it")
    if out.is_file():
        raise ValueError(f"{out} is a file: choose another out folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{out} is not empty: choose another out folder, or set overwrite to replace it")
    if problem := _reason_to_keep(out):
        raise ValueError(f"{out} is not replaced, because {problem}: choose another out folder")


def _reason_to_keep(folder: Path) -> str | None:
    """Why a folder may not be deleted; None if it is a data set and nothing else."""
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        return "it is the current folder or holds it"
    found = False
    with contextlib.suppress(OSError, ValueError, TypeError):  # an unfinished data set may have no shard yet
        found = "frame_shape" in read_json(folder / METADATA_FILE)
    for path in folder.rglob("*"):
        if path.is_symlink() or (path.is_file() and not path.name.removesuffix(".tmp").endswith(_FILES)):
            return f"it holds {path.relative_to(folder)}, which does not belong to a data set"
        found |= path.suffix == SUFFIX
    return None if found else "it is not a data set"
