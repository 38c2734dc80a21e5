"""ArrayRecord shards on disk: written atomically, opened with care, indexed once.

A data set is a folder of splits, `DATA/train/*.array_record`, with `DATA/metadata.json` beside them (optional).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data.metadata import Metadata
from data.records import Record, decode_record

RECORDS_A_SHARD = 100
SUFFIX = ".array_record"
# Levels of zstd, which read equally fast. Of CoinRun, 9 makes three quarters of the bytes that 3 does, in 100 us a
# frame; of pictures that were a video it makes nine tenths of them, in 280 us, and 3 takes 70.
SMALL, QUICK = 9, 3
# Without read-ahead a random read costs what one in sequence does.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_FILE_BUFFER_BYTES = 32 * 1024


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
