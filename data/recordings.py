"""Recordings of games by other programs: pictures with time stamps, from videos, folders of pictures, and arrays.

A source is `NAME.mp4` (or whatever PyAV opens), a folder `NAME/` of pictures, or `NAME.npz` with `frames` (or `video`).
"""

from __future__ import annotations

import contextlib
import mimetypes
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
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
        return self.path.suffix == ".npz"

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
    for path in sorted(folder.rglob("*")):
        is_array = path.suffix.lower() == ".npz" and (_pictures_in(path) or not zipfile.is_zipfile(path))
        if _is_video(path) or is_array:
            source = path
        elif path.suffix.lower() in PICTURE_SUFFIXES and path.parent != folder:
            source = path.parent
        else:
            continue
        named = source.relative_to(folder)
        name = str(named if source.is_dir() else named.with_suffix(""))
        if found.setdefault(name, source) != source:
            raise ValueError(f"{found[name]} and {source} have the same name: rename one of them")
    if not found:
        raise ValueError(f"nothing to import in {folder}: no videos, no folders of pictures, no .npz with frames")
    return [Source(name, path) for name, path in sorted(found.items(), key=lambda item: _natural(item[0]))]


def frame_times(source: Source, source_fps: float) -> np.ndarray:
    """(K,) seconds from the first picture to each, in the order they are shown; no picture is decoded for it.

    Args:
        source_fps: of folders and arrays, which do not tell.

    Raises:
        ValueError: it cannot be read.
    """
    if source.is_folder:
        return np.arange(len(_pictures(source.path))) / source_fps
    if source.is_array:
        return np.arange(_read_array_header(source.path)[0][0]) / source_fps
    with _opened(source.path) as container:
        stream = container.streams.video[0]
        stamps = [
            packet.pts if packet.pts is not None else packet.dts
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        rate, time_base = stream.average_rate or stream.guessed_rate, stream.time_base
    if not stamps:
        raise ValueError("it holds no pictures")
    if any(stamp is None for stamp in stamps):
        if not rate:
            raise ValueError("it has neither time stamps nor a frame rate")
        return np.arange(len(stamps)) / float(rate)
    stamps = np.sort(np.array(stamps, np.int64))
    return (stamps - stamps[0]) * float(time_base)


def frame_rate(source: Source, source_fps: float) -> tuple[float, float] | None:
    """Pictures a second, and about how many seconds there are, from what the file says of itself.

    None where it cannot be read, which `frame_times` will explain.
    """
    with contextlib.suppress(ValueError):
        if source.is_folder or source.is_array:
            return source_fps, len(frame_times(source, source_fps)) / source_fps
        with _opened(source.path) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
            return (rate, seconds) if rate else None
    return None


def pictures(source: Source) -> Iterator[av.VideoFrame]:
    """Every picture, in the order they are shown.

    Raises:
        ValueError: it cannot be read to its end.
    """
    if source.is_folder:
        yield from map(_read_picture, _pictures(source.path))
    elif source.is_array:
        yield from _array_pictures(source.path)
    else:
        with _opened(source.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield from container.decode(stream)


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


def _is_video(path: Path) -> bool:
    kind = mimetypes.guess_type(path.name)[0] or ""
    return kind.startswith("video/") or path.suffix.lower() in (".mkv", ".ts", ".flv", ".gif", ".y4m", ".m2ts")


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
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from None


def _pictures_in(path: Path) -> str | None:
    """The name of the array of pictures in an .npz; None if it has none: it holds a video's actions then."""
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return next((name for name in ("frames.npy", "video.npy") if name in archive.namelist()), None)
    return None


def _read_array_header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type, of uint8 (K, H, W, 3)."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_pictures_in(path)) as file:
            return _header(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"it cannot be read: {error}") from None


def _header(file) -> tuple[tuple[int, ...], np.dtype]:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, by_column, dtype = read[np.lib.format.read_magic(file)](file)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not min(shape) or by_column:
        raise ValueError(f"its frames are {dtype} {shape}: expected uint8 (frames, height, width, 3)")
    return shape, dtype


def _array_pictures(path: Path) -> Iterator[av.VideoFrame]:
    """One at a time, so that an array larger than memory will do."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_pictures_in(path)) as file:
            (num_frames, height, width, channels), _ = _header(file)
            for _ in range(num_frames):
                data = file.read(height * width * channels)
                yield av.VideoFrame.from_ndarray(
                    np.frombuffer(data, np.uint8).reshape(height, width, channels), format="rgb24"
                )
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"it cannot be read: {error}") from None
