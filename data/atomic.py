"""Atomic writing: a file or a folder appears under its name only when it is complete."""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: Path, fsync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the context ends without an error.

    The parent folder is created if needed. After an error the temporary file is deleted and `path` is as it was.

    Args:
        fsync: flush the file to disk before the rename, so that a power cut cannot leave a name without its content.

    Raises:
        OSError: as writing does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        if fsync:
            _fsync(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file that people can read, atomically. Paths become text."""
    write_text(path, json.dumps(values, indent=2, default=os.fspath) + "\n")


def check_output(
    path: Path,
    is_folder: bool = False,
    suffix: str = "",
    inputs: Iterable[str | Path | None] = (),
    files: tuple[str, ...] = (),
) -> None:
    """Check that a file or a folder can be written to `path`, before work whose result it gets. Writes nothing.

    Args:
        suffix: of the one format that is written.
        inputs: files that are read: they must not be lost.
        files: names that are written into the folder. Where the first is missing, the others are not of our making.
    """
    if is_folder and path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: choose another output folder")
    if not is_folder and path.is_dir():
        raise ValueError(f"{path} is a folder: choose another output file")
    folder = path if is_folder else path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # folders that do not exist yet are created
    if not folder.is_dir():
        raise ValueError(f"{path} cannot be written: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: {folder} is read-only")
    if suffix and path.suffix.lower() != suffix:
        raise ValueError(f"{path} would hold {suffix[1:]}: give it a name that ends in {suffix}")
    if path.exists() and any(name and Path(name).exists() and path.samefile(name) for name in inputs):
        raise ValueError(f"{path} is read, so it is not replaced: choose another output file")
    others = [name for name in files if (path / name).exists()]
    if others and files[0] not in others:
        raise ValueError(f"{path} holds {others[0]}, which would be replaced: choose another output folder")


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; rename it to `path` when the context ends without an error.

    Its files are flushed to disk before the rename. The temporary folder is `.NAME.tmp`; one that a killed process
    left behind is deleted first. After an error the temporary folder is deleted, to free its disk space, and `path`
    is as it was.

    Args:
        replace: replace a folder that is at `path` already. It stays in place until the new one is complete.

    Raises:
        FileExistsError: `path` exists and `replace` is false.
        OSError: as writing does.
    """
    path = path.resolve()  # a link to a folder on another disk stays a link
    if path.exists() and not replace:
        raise FileExistsError(f"{path} already exists")
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for entry in (*temporary.rglob("*"), temporary):
            _fsync(entry)
        _rename_over(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename_over(folder: Path, path: Path) -> None:
    """Rename `folder` to `path`. A folder that is there is moved aside first and moved back if the rename fails.

    Ctrl-C between the two renames counts as a failure too.
    """
    if not path.exists():
        folder.rename(path)
        return
    replaced = path.with_name(f".{path.name}.replaced.tmp")
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        path.rename(replaced)
        folder.rename(path)
    except BaseException:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        raise
    shutil.rmtree(replaced)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems, such as those of cloud drives, cannot flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
