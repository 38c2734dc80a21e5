"""Recordings of games by other programs: pictures with time stamps, from videos, folders of pictures, and arrays.

A source is `NAME.mp4` (or whatever PyAV opens), a folder `NAME/` of pictures, or `NAME.npz` with `frames` (or `video`).
"""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".apng", ".ogv", ".ogg", ".flv", ".f4v", ".wmv", ".asf"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".3gp", ".3g2", ".mxf", ".nut", ".divx", ".y4m", ".rm"),
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Whatever reading an .npz that is damaged, or none at all, comes to.
READ_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)
STAMP_SECS = 1e-4  # by which time stamps of one picture may differ, as they are rounded
_ACTION_IN_NAME = re.compile(r"_a(\d+)(?=[_.])")  # "..._f12_a20_...png": the buttons' byte, as SMB sets have it
_FRAME_IN_NAME = re.compile(r"_f(\d+)(?=[_.])")


@dataclass(frozen=True)
class Source:
    """One recording, and the way to its pictures."""

    name: str  # its path below the folder of recordings, without suffix: that of its actions' file too
    path: Path

    @property
    def is_array(self) -> bool:
        """Whether it is an .npz."""
        return self.path.suffix.lower() == ".npz"

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of pictures."""
        return self.path.is_dir()


def find_sources(folder: Path) -> list[Source]:
    """All recordings below a folder, in the order of their names.

    Raises:
        ValueError: no such folder, nothing in it, or two of the same name.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}")
    found: dict[str, Path] = {}

    def add(source: Path) -> None:
        if found.setdefault(_name(source, folder), source) != source:
            raise ValueError(f"{found[_name(source, folder)]} and {source} have the same name: rename one of them")

    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in paths:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            add(path)
        elif path.suffix.lower() in PICTURE_SUFFIXES and path.parent != folder:
            add(path.parent)
    for path in paths:
        # One that cannot be read is the actions of a recording of its name, or a recording to be told of.
        is_lost = not zipfile.is_zipfile(path) and _name(path, folder) not in found
        if path.suffix.lower() == ".npz" and (pictures_in(path) or is_lost):
            add(path)
    if not found:
        raise ValueError(f"nothing to import in {folder}: no videos, no folders of pictures, no .npz with frames")
    return [Source(name, path) for name, path in sorted(found.items(), key=lambda item: _natural(item[0]))]


def _name(source: Path, folder: Path) -> str:
    named = source.relative_to(folder)
    return str(named if source.is_dir() else named.with_suffix(""))


def frame_times(source: Source, source_fps: float) -> np.ndarray:
    """(K,) seconds from the first picture to each, in the order they are shown; only the first is decoded for it.

    Args:
        source_fps: of folders, and of arrays without `time`.

    Raises:
        ValueError: it cannot be read.
    """
    if source.is_folder:
        if not _pictures(source.path):
            raise ValueError("it holds no pictures")
        return np.arange(len(_pictures(source.path))) / source_fps
    if source.is_array:
        return _array_times(source.path, source_fps)
    with _opened(source.path) as container:
        stream = container.streams.video[0]
        packets = [
            (packet.pts, packet.dts) for packet in container.demux(stream) if packet.size and not packet.is_discard
        ]
        stamps = [pts if pts is not None else dts for pts, dts in packets]
        rate, time_base = stream.average_rate or stream.guessed_rate, stream.time_base
    if not stamps:
        raise ValueError("it holds no pictures")
    first = None
    if all(pts is not None for pts, _ in packets):
        with contextlib.closing(_decoded(source.path)) as decoded:
            first = next((picture.pts for picture in decoded), None)
    if any(stamp is None for stamp in stamps):
        if not rate:
            raise ValueError("it has neither time stamps nor a frame rate")
        return np.arange(len(stamps)) / float(rate)
    stamps = np.sort(np.array(stamps, np.int64))
    if first is not None:  # what was cut out of a stream begins with pictures that lack those they differ from
        stamps = stamps[min(np.searchsorted(stamps, first), len(stamps) - 1) :]
    return (stamps - stamps[0]) * float(time_base)


def frame_rate(source: Source, source_fps: float) -> tuple[float, float] | None:
    """Pictures a second, and about how many seconds there are, from what the file says of itself.

    None where it cannot be read, which `frame_times` will explain.
    """
    with contextlib.suppress(ValueError):
        if source.is_folder or source.is_array:
            times = frame_times(source, source_fps)
            rate = (len(times) - 1) / times[-1] if times[-1] > 0 else source_fps
            return rate, len(times) / rate
        with _opened(source.path) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
            return (rate, seconds) if rate else None
    return None


def pictures(source: Source, times: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    """Every picture that can be decoded, in the order they are shown, and its number among `times`.

    Args:
        times: what `frame_times` says.

    Raises:
        ValueError: it cannot be read to its end.
    """
    if source.is_folder:
        yield from enumerate(map(_read_picture, _pictures(source.path)))
    elif source.is_array:
        yield from enumerate(_array_pictures(source.path))
    else:
        number, first, shown = -1, None, times.tolist()
        for picture in _decoded(source.path):
            number += 1
            if picture.pts is not None:  # some before it may not have been decoded
                if first is None:
                    first, secs = picture.pts, float(picture.time_base)
                number = max(number, bisect_left(shown, (picture.pts - first) * secs - STAMP_SECS))
            yield number, picture


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


def stamp(source: Source, beside: Path | None) -> list[int]:
    """What changes when a recording, or the file of its actions, does: how many files, their bytes, the newest time."""
    paths = _pictures(source.path) if source.is_folder else [source.path]
    found = [path.stat() for path in (*paths, *([beside] if beside else []))]
    return [len(found), sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)]


def buttons_in_names(source: Source) -> np.ndarray | None:
    """(K,) the byte of buttons in the names of a folder's pictures; None where they hold none."""
    if not source.is_folder:
        return None
    found = [_ACTION_IN_NAME.search(path.name) for path in _pictures(source.path)]
    return np.array([int(match[1]) for match in found]) if all(found) else None


@contextlib.contextmanager
def _opened(path: Path):
    """A video's container; whatever is wrong with it, now or later, is a ValueError."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it has no pictures, only sound")
            yield container
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from None


def _natural(name: str) -> list:
    """So that frame 2 comes before frame 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _pictures(folder: Path) -> list[Path]:
    """A folder's pictures, by the frame number `_f12` in their names, else by name, numbers counted."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
    numbers = [_FRAME_IN_NAME.search(path.name) for path in found]
    if all(numbers):
        return [path for _, path in sorted(zip((int(match[1]) for match in numbers), found, strict=True))]
    return sorted(found, key=lambda path: _natural(path.name))


def _read_picture(path: Path) -> av.VideoFrame:
    try:
        with Image.open(path) as image:
            return av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as PIL does for damaged ones
        raise ValueError(f"{path.name} cannot be read: {error}") from None


def pictures_in(path: Path) -> str | None:
    """The name of the array of pictures in an .npz; None if it has none: it holds a video's actions then."""
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return next((name for name in ("frames.npy", "video.npy") if name in archive.namelist()), None)
    return None


def _array_times(path: Path, source_fps: float) -> np.ndarray:
    """(K,) seconds from the first frame of an .npz, by its `time` if it has one."""
    with _opened_array(path) as ((num_frames, *_), _):
        pass
    try:
        with np.load(path, allow_pickle=False) as arrays:
            times = arrays["time"].astype(np.float64) if "time" in arrays else np.arange(num_frames) / source_fps
    except READ_ERRORS as error:
        raise ValueError(f"it cannot be read: {error}") from None
    if times.shape != (num_frames,) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError(f"its `time` is no row of {num_frames} seconds that only grow")
    return times - times[0]


@contextlib.contextmanager
def _opened_array(path: Path) -> Iterator[tuple[tuple[int, ...], zipfile.ZipExtFile]]:
    """The shape (K, H, W, 3) of an .npz's pictures, and the file of them; whatever is wrong with it is a ValueError."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(pictures_in(path)) as file:
            yield _header(file), file
    except READ_ERRORS as error:
        raise ValueError(f"it cannot be read: {error}") from None


def _header(file) -> tuple[int, ...]:
    """The shape of uint8 pictures; raises ValueError if they are something else."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, by_column, dtype = read[np.lib.format.read_magic(file)](file)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not min(shape) or by_column:
        raise ValueError(f"its frames are {dtype} {shape}: expected uint8 (frames, height, width, 3)")
    return shape


def _array_pictures(path: Path) -> Iterator[av.VideoFrame]:
    """One at a time, so that an array larger than memory will do."""
    with _opened_array(path) as ((num_frames, *shape), file):
        for _ in range(num_frames):
            frame = np.frombuffer(file.read(int(np.prod(shape))), np.uint8).reshape(shape)
            yield av.VideoFrame.from_ndarray(frame, format="rgb24")
