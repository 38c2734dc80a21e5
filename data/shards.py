"""ArrayRecord shards on disk: written atomically, opened with care, indexed once.

A data set is a folder of splits, `DATA/train/*.array_record`, with `DATA/metadata.json` beside them (optional).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data.actions import PROCGEN_GAMES, ActionSpace, numbered, procgen_actions
from data.records import Record, decode_record
from data.whole import whole_file

RECORDS_A_SHARD = 100
MOST_PIXELS = 1024  # of a frame's width or height: a record of larger ones would fill the memory
SUFFIX = ".array_record"
METADATA_FILE, INDEX_FILE = "metadata.json", "index.json"
# Levels of zstd, which read equally fast. Of CoinRun, 9 makes three quarters of the bytes that 3 does, in 100 us a
# frame; of pictures that were a video it makes nine tenths of them, in 280 us, and 3 takes 70.
SMALL, QUICK = 9, 3
# Without read-ahead a random read costs what one in sequence does.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_FILE_BUFFER_BYTES = 32 * 1024


@dataclass(frozen=True)
class Metadata:
    """What `metadata.json` says of a data set. The defaults are those of the public CoinRun set, which says less."""

    environment: str = "coinrun"
    environment_options: tuple[tuple[str, Any], ...] = ()
    frame_shape: tuple[int, int, int] = (64, 64, 3)  # (H, W, C)
    fps: float = 15.0
    actions: ActionSpace = field(default_factory=lambda: procgen_actions("coinrun"))

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, ready for JSON."""
        return {
            "environment": self.environment,
            "environment_options": dict(self.environment_options),
            "frame_shape": list(self.frame_shape),
            "fps": self.fps,
            "num_actions": len(self.actions.names),
            **self.actions.to_dict(),
        }


def parse_size(size: str) -> tuple[int, int]:
    """ "96x64" -> width and height.

    Raises:
        ValueError: it is spelt otherwise, or is none of a frame.
    """
    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"size is {size!r}: expected width x height in pixels, 96x64 say")
    if max(int(width), int(height)) > MOST_PIXELS:
        raise ValueError(f"size is {size!r}: frames are at most {MOST_PIXELS} pixels wide and high")
    return int(width), int(height)


def read_metadata(folder: Path) -> Metadata:
    """The metadata of a data set, with the public set's defaults for what it does not say.

    Raises:
        ValueError: no such folder, or a metadata.json that makes no sense.
    """
    if not folder.is_dir():
        raise ValueError(f"no data set at {folder}: collect one with python -m scripts.collect --out {folder}")
    path, default = folder / METADATA_FILE, Metadata()
    if not path.is_file():
        return default
    try:
        values = json.loads(path.read_text())
        environment = str(values.get("environment", values.get("env", default.environment)))
        num_actions = int(values.get("num_actions", len(default.actions)))
        procgen = environment in PROCGEN_GAMES and num_actions == len(default.actions)
        actions = procgen_actions(environment) if procgen else numbered(num_actions)
        if "action_names" in values:
            actions = ActionSpace.from_dict(values)
        if len(actions.names) != num_actions:
            raise ValueError(f"num_actions is {num_actions}, with {len(actions.names)} names")
        height, width, channels = map(int, values.get("frame_shape", default.frame_shape))
        fps = float(values.get("fps", default.fps))
        if min(num_actions, height, width, channels) < 1 or not 0 < fps < math.inf:
            raise ValueError("num_actions, frame_shape and fps must be above 0")
        return Metadata(
            environment=environment,
            environment_options=tuple(dict(values.get("environment_options", {})).items()),
            frame_shape=(height, width, channels),
            fps=fps,
            actions=actions,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} makes no sense: {type(error).__name__}: {error}") from None


@contextlib.contextmanager
def _as_os_error():
    """array_record tells of a full disk by a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"a shard cannot be written: {error}") from None


class ShardWriter:
    """Writes a shard, record by record; it stands under its name only once it is closed.

    Args:
        level: of compression, SMALL or QUICK.
    """

    def __init__(self, path: Path, level: int = SMALL):
        self.path = path
        self._temporary = path.with_name(path.name + ".tmp")
        # One record a group, so that reading one decodes one.
        self._writer = ArrayRecordWriter(str(self._temporary), f"group_size:1,zstd:{level}")

    def write(self, payload: bytes) -> None:
        """One more record."""
        with _as_os_error():
            self._writer.write(payload)

    def close(self) -> None:
        """The shard is whole."""
        try:
            with _as_os_error():
                self._writer.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())  # a power cut must not leave a name without its records
            self._temporary.rename(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def discard(self) -> None:
        """It is not wanted after all."""
        with contextlib.suppress(RuntimeError):
            self._writer.close()
        self._temporary.unlink(missing_ok=True)


def write_shard(path: Path, payloads: Iterable[bytes]) -> None:
    """Write a whole shard; nothing is left behind if that fails."""
    writer = ShardWriter(path)
    try:
        for payload in payloads:
            writer.write(payload)
    except BaseException:
        writer.discard()
        raise
    writer.close()


def open_shard(path: Path) -> ArrayRecordReader:
    """Open a shard for reading.

    Raises:
        ValueError: it is missing, truncated or not ArrayRecord (the library opens such a file silently).
    """
    if not path.is_file():
        raise ValueError(f"no shard at {path}")
    reader = ArrayRecordReader(str(path), _READER_OPTIONS, file_reader_buffer_size=_FILE_BUFFER_BYTES)
    if not reader.ok() or reader.num_records() == 0:
        with contextlib.suppress(RuntimeError):  # closing a bad file raises what opening it kept to itself
            reader.close()
        raise ValueError(f"{path} is not a whole ArrayRecord file (truncated, empty or of another format)")
    return reader


class ShardReader:
    """Reads records of many shards, by number, from many threads, with a bounded number of open files."""

    def __init__(self, paths: list[Path], metadata: Metadata, max_open_files: int = 128):
        self.paths, self.metadata = paths, metadata
        self._max_open_files = max_open_files
        self._lock = threading.Lock()
        self._readers: OrderedDict[int, ArrayRecordReader] = OrderedDict()

    def num_records(self, shard: int) -> int:
        """Records in a shard. Raises ValueError as `open_shard` does."""
        return self._reader(shard).num_records()

    def read(self, shard: int, number: int) -> Record:
        """One record.

        Raises:
            ValueError: the shard or the record is bad; names both.
        """
        try:
            (payload,) = self._reader(shard).read([number])
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"{self.paths[shard]}, record {number}: {error}") from None
        try:
            return decode_record(payload, self.metadata.frame_shape, self.metadata.actions)
        except ValueError as error:
            raise ValueError(f"{self.paths[shard]}, record {number}: {error}") from None

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._lock:
            if shard in self._readers:
                self._readers.move_to_end(shard)
            else:
                self._readers[shard] = open_shard(self.paths[shard])
                if len(self._readers) > self._max_open_files:
                    # Not closed by hand: another thread may be reading from it. It closes when let go.
                    self._readers.popitem(last=False)
            return self._readers[shard]


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
    def bad_share(self) -> float:
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
    with contextlib.suppress(OSError), whole_file(path) as temporary:
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
