"""TODO."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import atomic_file
from data.metadata import Metadata
from data.shards import (
    RECORDS_A_SHARD,
    SUFFIX,
    ShardReader,
)

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class BadPart:
    """A shard or a record that cannot be used, and why."""

    shard: str  # file name
    number: int | None  # the record in the shard; None: the whole shard
    reason: str


@dataclass(frozen=True)
class SplitIndex:
    """What is in a split: the good records, and what is bad. Records are numbered by (shard, number)."""

    paths: list[Path]
    shards: np.ndarray  # int32 (R,), the shard of each good record
    numbers: np.ndarray  # int32 (R,), its place there
    lengths: np.ndarray  # int32 (R,), its frames
    bad: list[BadPart]

    @property
    def bad_fraction(self) -> float:
        """Share of what is bad: a record counts as one, an unreadable shard as a full one."""
        bad = sum(1 if part.number is not None else RECORDS_A_SHARD for part in self.bad)
        return bad / max(1, bad + len(self.lengths))


def index_split(
    folder: Path,
    split: str,
    metadata: Metadata,
    num_threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> SplitIndex:
    """Read every record of a split once and note its length, or what is wrong with it.

    The result is kept in `DATA/SPLIT/index.json`, shard by shard: only shards that are new or changed are read again.

    Args:
        progress: called with (shards done, shards to do) as new shards are read.

    Raises:
        ValueError: the split has no shards.
    """
    paths = split_shards(folder, split)
    cache_path = folder / split / INDEX_FILE
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
    """The split of a data set to judge and play by: "test", or "val" where there is no other."""
    return "val" if any((folder / "val").glob("*")) and not any((folder / "test").glob("*")) else "test"


def split_shards(folder: Path, split: str) -> list[Path]:
    """The shard files of a split, by name.

    Raises:
        ValueError: there are none.
    """
    if not folder.is_dir():
        raise ValueError(f"no data set at {folder}: collect one with python -m scripts.collect --out {folder}")
    paths = sorted((folder / split).glob(f"*{SUFFIX}"))
    if not paths:
        there = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "no folders at all"
        raise ValueError(f"no {SUFFIX} files in {folder / split} ({folder} holds {there})")
    return paths


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _scan_shard(reader: ShardReader, shard: int) -> dict[str, Any]:
    """Lengths of a shard's records (0: bad), and what is bad."""
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
    """What a record's validity depends on."""
    return [*metadata.frame_shape, len(metadata.actions.names), *metadata.actions.kinds]


def _read_cache(path: Path, metadata: Metadata) -> dict[str, dict]:
    try:
        cache = json.loads(path.read_text())
        if cache["fingerprint"] != _fingerprint(metadata):
            return {}
        keys = ("stamp", "lengths", "bad")
        return {name: {key: entry[key] for key in keys} for name, entry in cache["shards"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # absent or damaged: it is made anew


def _write_cache(path: Path, metadata: Metadata, entries: dict[str, dict]) -> None:
    # A folder that cannot be written to is indexed anew each time.
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
