"""The index of a split: the length of every record, and which shards and records are bad.

It is cached in `DATA/SPLIT/index.json`, so that only new and changed shards are read.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamrun.data.atomic import atomic_file
from dreamrun.data.metadata import Metadata, find_dataset
from dreamrun.data.shards import RECORDS_PER_SHARD, SUFFIX, ShardReader
from dreamrun.games.json_file import read_json
from dreamrun.games.printable import printable
from dreamrun.shipped import find_shipped

INDEX_FILE = "index.json"
MAX_INDEX_BYTES = 2**30
_MAX_LENGTH = 2**31 - 1  # frames of a record
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MAX_WARNINGS = 5  # bad parts that are named one by one


@dataclass(frozen=True)
class BadPart:
    """A shard or a record that cannot be used."""

    shard: str  # file name
    number: int | None  # index of the record in the shard; None: the whole shard
    reason: str  # names the shard and the record


@dataclass(frozen=True)
class SplitIndex:
    """The R good records of a split, in the order of (shard, number), and its bad parts."""

    paths: list[Path]  # of all shards
    shards: np.ndarray  # int32 (R,), index into `paths` of each good record
    numbers: np.ndarray  # int32 (R,), index of the record in its shard
    lengths: np.ndarray  # int32 (R,), frames of the record
    bad: list[BadPart]

    @property
    def bad_fraction(self) -> float:
        """Share of records that are bad; an unreadable shard counts as a full one."""
        bad = sum(1 if part.number is not None else RECORDS_PER_SHARD for part in self.bad)
        return bad / max(1, bad + len(self.lengths))


def index_split(
    folder: Path,
    split: str,
    metadata: Metadata,
    num_threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> SplitIndex:
    """Index a split. Reads every record of the shards that are not in the cached index, or have changed since.

    Args:
        num_threads: that read and decode.
        progress: called with (shards done, shards to read) after each shard that is read.

    Raises:
        ValueError: the split has no shards.
    """
    paths = split_shards(folder, split)
    cache_path = paths[0].parent / INDEX_FILE
    cached = _read_cache(cache_path, metadata)
    entries = {path.name: cached.get(path.name) for path in paths}
    stamps = {path.name: _stamp(path) for path in paths}
    todo = [path for path in paths if entries[path.name] is None or entries[path.name]["stamp"] != stamps[path.name]]
    reader = ShardReader(paths, metadata)
    number_of = {path: number for number, path in enumerate(paths)}
    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(lambda path: _scan_shard(reader, number_of[path]), todo)
        for done, (path, scanned) in enumerate(zip(todo, results, strict=True), start=1):
            entries[path.name] = {"stamp": stamps[path.name], **scanned}
            if progress:
                progress(done, len(todo))
    if todo:
        _write_cache(cache_path, metadata, entries)
    return _assemble(paths, entries)


def held_out_split(folder: Path) -> str:
    """The split for evaluation and play: "test", or "val" if only that exists."""
    folder = find_shipped(folder, "samples")
    return "val" if any((folder / "val").glob("*")) and not any((folder / "test").glob("*")) else "test"


def is_split_name(name: Any) -> bool:
    """Whether a split can have this name, which is that of a folder inside of the data set."""
    return isinstance(name, str) and bool(_SPLIT_NAME.fullmatch(name))


def check_split_name(name: Any) -> str:
    """Raises ValueError unless a split can have this name, else returns it."""
    if not is_split_name(name):
        raise ValueError(f"split is {name!r:.80}: expected a plain name, such as train, val or test")
    return name


def split_shards(folder: Path, split: str) -> list[Path]:
    """The shard files of a split, sorted by name.

    Raises:
        ValueError: the split has no shards.
    """
    folder = find_dataset(folder)
    check_split_name(split)
    paths = sorted((folder / split).glob(f"*{SUFFIX}"))
    if not paths:
        folders = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "no folders"
        raise ValueError(f"no {SUFFIX} files in {folder / split} ({folder} holds {folders})")
    return paths


def warn_of_bad_parts(index: SplitIndex, split_name: str) -> None:
    """Print a warning for each bad part of a split, up to MAX_WARNINGS of them, on standard error."""
    for part in index.bad[:MAX_WARNINGS]:
        print(f"warning: skipped: {printable(part.reason)}", file=sys.stderr)
    if len(index.bad) > MAX_WARNINGS:
        print(f"warning: and {len(index.bad) - MAX_WARNINGS} more in {split_name}", file=sys.stderr)


def check_bad_fraction(index: SplitIndex, split_name: str, max_bad_fraction: float) -> None:
    """Check that most of a split can be read.

    Raises:
        ValueError: more than `max_bad_fraction` of its records are bad.
    """
    if index.bad_fraction > max_bad_fraction:
        raise ValueError(
            f"{index.bad_fraction:.1%} of {split_name} cannot be read, more than max_bad_fraction "
            f"{max_bad_fraction:.1%}; the first: {index.bad[0].reason}"
        )


def _stamp(path: Path) -> list[int]:
    """A fingerprint of the file: size and modification time."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _scan_shard(reader: ShardReader, shard: int) -> dict[str, Any]:
    """Read all records of a shard: their lengths (0: bad), and the bad parts."""
    name = reader.paths[shard].name
    try:
        count = reader.num_records(shard)
    except ValueError as error:
        return {"lengths": [], "bad": [asdict(BadPart(name, None, str(error)))]}
    lengths, bad = [], []
    for number in range(count):
        try:
            lengths.append(len(reader.read(shard, number)))
        except ValueError as error:
            lengths.append(0)
            bad.append(asdict(BadPart(name, number, str(error))))
    return {"lengths": lengths, "bad": bad}


def _fingerprint(metadata: Metadata) -> list:
    """The metadata that decides whether a record is valid."""
    return [*metadata.frame_shape, len(metadata.actions.names), *metadata.actions.kinds]


def _read_cache(path: Path, metadata: Metadata) -> dict[str, dict]:
    try:
        cache = read_json(path, MAX_INDEX_BYTES)
        if cache["fingerprint"] != _fingerprint(metadata):
            return {}
        return {name: _cached_entry(entry) for name, entry in cache["shards"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}  # missing or damaged: all shards are read again


def _cached_entry(entry: dict) -> dict[str, Any]:
    """One shard's part of the cache. Raises TypeError or ValueError if it is damaged."""
    lengths, bad = np.array(entry["lengths"], np.int64), [BadPart(**part) for part in entry["bad"]]
    if lengths.ndim != 1 or (lengths.size and not 0 <= lengths.min() <= lengths.max() <= _MAX_LENGTH):
        raise ValueError("the lengths are no numbers of frames")
    if not all(isinstance(part.reason, str) and type(part.number) in (int, type(None)) for part in bad):
        raise ValueError("the bad parts are no parts of a shard")
    return {"stamp": entry["stamp"], "lengths": lengths.tolist(), "bad": [asdict(part) for part in bad]}


def _write_cache(path: Path, metadata: Metadata, entries: dict[str, dict]) -> None:
    # If the folder is read-only, its shards are read again each time.
    with contextlib.suppress(OSError), atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"fingerprint": _fingerprint(metadata), "shards": entries}))


def _assemble(paths: list[Path], entries: dict[str, dict]) -> SplitIndex:
    shards, numbers, lengths, bad = [], [], [], []
    for shard, path in enumerate(paths):
        entry = entries[path.name]
        bad.extend(BadPart(**part) for part in entry["bad"])
        good = [(number, length) for number, length in enumerate(entry["lengths"]) if length]
        shards.extend([shard] * len(good))
        numbers.extend(number for number, _ in good)
        lengths.extend(length for _, length in good)
    return SplitIndex(paths, *(np.array(column, np.int32) for column in (shards, numbers, lengths)), bad)
