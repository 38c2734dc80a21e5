"""The index of a split: the length of every record, and which shards and records are bad.

It is cached in `DATA/SPLIT/index.json`, so that only new and changed shards are read.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamrun.data.atomic import write_text
from dreamrun.data.metadata import find_dataset
from dreamrun.data.shards import RECORDS_PER_SHARD, SUFFIX, ShardReader
from dreamrun.games.game import Game
from dreamrun.games.untrusted import printable, read_json
from dreamrun.shipped import find_shipped

SPLITS = ("train", "val", "test")
INDEX_FILE = "index.json"
MAX_INDEX_BYTES = 2**30
MAX_WARNINGS = 5  # bad records and shards that are named one by one


@dataclass(frozen=True)
class BadRecord:
    """A record, or a whole shard, that cannot be used."""

    shard: str  # file name
    number: int | None  # index of the record in the shard; None: the whole shard
    reason: str  # names the shard and the record


@dataclass(frozen=True)
class SplitIndex:
    """The R good records of a split, in the order of (shard, number), and the bad ones."""

    paths: list[Path]  # of all shards
    shards: np.ndarray  # int32 (R,), index into `paths` of each good record
    numbers: np.ndarray  # int32 (R,), index of the record in its shard
    lengths: np.ndarray  # int32 (R,), frames of the record
    bad: list[BadRecord]

    @property
    def bad_fraction(self) -> float:
        """Share of records that are bad; an unreadable shard counts as a full one."""
        num_bad = sum(1 if bad.number is not None else RECORDS_PER_SHARD for bad in self.bad)
        return num_bad / max(1, num_bad + len(self.lengths))


def index_split(
    folder: Path, split: str, metadata: Game, num_threads: int = 2, progress: Callable[[int, int], None] | None = None
) -> SplitIndex:
    """Index a split. Reads every record of the shards that are not in the cached index, or have changed since.

    Args:
        progress: called with (shards done, shards to read) after each shard that is read.
    """
    paths = split_shards(folder, split)
    cache_path = paths[0].parent / INDEX_FILE  # the samples that come with the package may be elsewhere
    stamps = {path.name: [stat.st_size, stat.st_mtime_ns] for path in paths for stat in (path.stat(),)}
    cached, reader = _read_cache(cache_path, metadata), ShardReader(paths, metadata)
    entries = {name: cached[name] for name in stamps if name in cached and cached[name]["stamp"] == stamps[name]}
    todo = [shard for shard, path in enumerate(paths) if path.name not in entries]
    with ThreadPoolExecutor(num_threads) as pool:
        scans = pool.map(lambda shard: _scan_shard(reader, shard), todo)
        for done, (shard, scan) in enumerate(zip(todo, scans, strict=True), start=1):
            name = paths[shard].name
            entries[name] = {"stamp": stamps[name], **scan}
            if progress:
                progress(done, len(todo))
    if todo:
        # If the folder is read-only, its shards are read again each time.
        with contextlib.suppress(OSError):
            write_text(cache_path, json.dumps({"fingerprint": _fingerprint(metadata), "shards": entries}))
    return _assemble(paths, entries)


def held_out_split(folder: Path) -> str:
    """The split for evaluation and play: "test", or "val" if only that exists."""
    folder = find_shipped(folder, "samples")
    return "val" if any((folder / "val").glob("*")) and not any((folder / "test").glob("*")) else "test"


def split_shards(folder: Path, split: str) -> list[Path]:
    """The shard files of a split, sorted by name."""
    folder = find_dataset(folder)
    paths = sorted((folder / split).glob(f"*{SUFFIX}"))
    if not paths:
        folders = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "no folders"
        raise ValueError(f"no {SUFFIX} files in {folder / split} ({folder} holds {folders})")
    return paths


def warn_of_bad_records(index: SplitIndex, split_name: str) -> None:
    """Print a warning for each bad record or shard of a split, up to MAX_WARNINGS of them, on standard error."""
    for bad in index.bad[:MAX_WARNINGS]:
        print(f"warning: skipped: {printable(bad.reason)}", file=sys.stderr)
    if len(index.bad) > MAX_WARNINGS:
        print(f"warning: and {len(index.bad) - MAX_WARNINGS} more in {split_name}", file=sys.stderr)


def _scan_shard(reader: ShardReader, shard: int) -> dict[str, Any]:
    """Read all records of a shard: their lengths (0: bad), and the bad ones."""
    name = reader.paths[shard].name
    try:
        count = reader.num_records(shard)
    except ValueError as error:
        return {"lengths": [], "bad": [asdict(BadRecord(name, None, str(error)))]}
    lengths, bad = [], []
    for number in range(count):
        try:
            lengths.append(len(reader.read(shard, number)))
        except ValueError as error:
            lengths.append(0)
            bad.append(asdict(BadRecord(name, number, str(error))))
    return {"lengths": lengths, "bad": bad}


def _fingerprint(metadata: Game) -> list:
    """The metadata that decides whether a record is valid."""
    return [*metadata.frame_shape, len(metadata.actions.names), *metadata.actions.kinds]


def _read_cache(path: Path, metadata: Game) -> dict[str, dict]:
    """Shard name -> stamp, lengths and bad records, of shards that were read before; empty if the file is damaged."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        cache = read_json(path, MAX_INDEX_BYTES)
        if cache["fingerprint"] == _fingerprint(metadata):
            keys = ("stamp", "lengths", "bad")
            return {name: {key: entry[key] for key in keys} for name, entry in cache["shards"].items()}
    return {}


def _assemble(paths: list[Path], entries: dict[str, dict]) -> SplitIndex:
    shards, numbers, lengths, bad = [], [], [], []
    for shard, path in enumerate(paths):
        entry = entries[path.name]
        bad.extend(BadRecord(**part) for part in entry["bad"])
        good = [(number, length) for number, length in enumerate(entry["lengths"]) if length]
        shards.extend([shard] * len(good))
        numbers.extend(number for number, _ in good)
        lengths.extend(length for _, length in good)
    return SplitIndex(paths, *(np.array(column, np.int32) for column in (shards, numbers, lengths)), bad)
