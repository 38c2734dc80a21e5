"""ArrayRecord shards: files of up to 100 records, written atomically and read by many threads.

A data set is a folder of splits, `DATA/train/*.array_record`, with an optional `DATA/metadata.json`.
"""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from dreamrun.data.atomic import atomic_file
from dreamrun.data.records import Record, decode_record
from dreamrun.games.game import Game

RECORDS_PER_SHARD = 100
SUFFIX = ".array_record"
# Compression levels of zstd; both read equally fast. CoinRun: level 9 writes 3/4 of the bytes of level 3, in 100 us per
# frame. Frames that were a video: level 9 writes 9/10 of the bytes, in 280 us per frame, where level 3 takes 70 us.
ZSTD_SMALL, ZSTD_FAST = 9, 3
# Without read-ahead a random read costs no more than a sequential one.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_FILE_BUFFER_BYTES = 32 * 1024


@contextlib.contextmanager
def _as_os_error():
    """Turn RuntimeError, which array_record raises when the disk is full, into OSError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"a shard cannot be written: {error}") from None


@contextlib.contextmanager
def shard_writer(path: Path, zstd_level: int = ZSTD_SMALL) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that appends an encoded record to a shard. The file appears when the context ends, if no error.

    Raises:
        OSError: the disk is full; no file is left then.
    """
    with atomic_file(path, fsync=True) as temporary:
        # One record per group: reading a record then decodes no other.
        writer = ArrayRecordWriter(os.fsencode(temporary), f"group_size:1,zstd:{zstd_level}")

        def write(payload: bytes) -> None:
            with _as_os_error():
                writer.write(payload)

        try:
            yield write
        except BaseException:
            with contextlib.suppress(RuntimeError):
                writer.close()
            raise
        with _as_os_error():
            writer.close()


def write_shard(path: Path, payloads: Iterable[bytes]) -> None:
    """Write a complete shard. After an error no file is left behind."""
    with shard_writer(path) as write:
        for payload in payloads:
            write(payload)


def open_shard(path: Path) -> ArrayRecordReader:
    """Open a shard for reading."""
    if not path.is_file():
        raise ValueError(f"no shard at {path}")
    # As bytes, since a name that is not UTF-8 cannot be passed as text.
    reader = ArrayRecordReader(os.fsencode(path), _READER_OPTIONS, file_reader_buffer_size=_FILE_BUFFER_BYTES)
    if not reader.ok() or reader.num_records() == 0:
        with contextlib.suppress(RuntimeError):  # of the bad file, which only `close` reports
            reader.close()
        raise ValueError(f"{path} is not a complete ArrayRecord file (truncated, empty or of another format)")
    return reader


class ShardReader:
    """Reads records of many shards, with a bounded number of open files. Safe to use from several threads.

    Args:
        paths: shard files; methods take an index into this list.
        max_open_files: the least recently used file is closed above this number.
    """

    def __init__(self, paths: list[Path], metadata: Game, max_open_files: int = 128):
        self.paths, self.metadata = paths, metadata
        self._max_open_files = max_open_files
        self._lock = threading.Lock()
        self._readers: OrderedDict[int, ArrayRecordReader] = OrderedDict()

    def num_records(self, shard: int) -> int:
        """Number of records in a shard. Raises ValueError as `open_shard` does."""
        return self._reader(shard).num_records()

    def read(self, shard: int, number: int) -> Record:
        """Record `number` of a shard."""
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
                    # Not closed here, as another thread may be reading from it. It closes when nobody refers to it.
                    self._readers.popitem(last=False)
            return self._readers[shard]
