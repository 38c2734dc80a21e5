"""Find recordings and decode their pictures: videos, folders of pictures, and arrays.

A source is `NAME.mp4` (or another format that PyAV opens), a folder `NAME/` of pictures, or `NAME.npz` with an array
`frames` (or `video`).

Shapes: K pictures of a recording.
"""

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from dreamrun.data.importing.decoding import Picture, decode_video, open_video, read_picture, video_times

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".apng", ".ogv", ".ogg", ".flv", ".f4v", ".wmv", ".asf"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".3gp", ".3g2", ".mxf", ".nut", ".divx", ".y4m", ".rm"),
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".avif")
# What reading a damaged or foreign .npz can raise.
READ_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)
_ACTION_IN_NAME = re.compile(r"_a(\d+)(?=[_.])")  # "..._f12_a20_...png": a bit field of buttons, as in the SMB data set
_FOREIGN_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN")
_FRAME_IN_NAME = re.compile(r"_f(\d+)(?=[_.])")


@dataclass(frozen=True)
class Source:
    """One recording."""

    name: str  # path below the folder of recordings, without suffix; its file of actions has the same name
    path: Path

    @property
    def is_array(self) -> bool:
        """Whether it is an .npz."""
        return self.path.suffix.lower() == ".npz"

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of pictures."""
        return self.path.is_dir()

    @property
    def is_picture(self) -> bool:
        """Whether it is a single picture, as a clip may be."""
        return self.path.suffix.lower() in PICTURE_SUFFIXES and not self.is_folder


def find_sources(folder: Path) -> list[Source]:
    """All recordings below a folder, sorted by name."""
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}")
    found: dict[str, Path] = {}

    def add(source: Path) -> None:
        if found.setdefault(_name(source, folder), source) != source:
            raise ValueError(f"{found[_name(source, folder)]} and {source} have the same name: rename one of them")

    paths = [path for path in sorted(folder.rglob("*")) if not _is_foreign(path.relative_to(folder)) and path.is_file()]
    for path in paths:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            add(path)
        elif path.suffix.lower() in PICTURE_SUFFIXES and path.parent != folder:
            add(path.parent)
    for path in paths:
        # A damaged .npz without a video or folder of the same name is reported. With one, it is an action file.
        if path.suffix.lower() == ".npz":
            is_damaged = not zipfile.is_zipfile(path) and _name(path, folder) not in found
            if frames_array_name(path) or is_damaged:
                add(path)
    if not found:
        raise ValueError(f"nothing to import in {folder}: no videos, no folders of pictures, no .npz with frames")
    return [Source(name, path) for name, path in sorted(found.items(), key=lambda item: _natural_key(item[0]))]


def _is_foreign(path: Path) -> bool:
    """Whether a program keeps its own files there: macOS beside each file, others in folders of thumbnails."""
    return any(part.startswith(".") or part in _FOREIGN_FOLDERS for part in path.parts)


def _name(source: Path, folder: Path) -> str:
    relative = source.relative_to(folder)
    return str(relative if source.is_dir() else relative.with_suffix(""))


def frame_times(source: Source, source_fps: float) -> np.ndarray:
    """(K,) seconds from the first picture to each, in the order of display. Decodes only the first picture.

    Args:
        source_fps: pictures per second of folders, and of arrays without `time`.
    """
    if source.is_folder:
        paths = _picture_files(source.path)
        if not paths:
            raise ValueError("it holds no pictures")
        return np.arange(len(paths)) / source_fps
    if source.is_array:
        return _array_times(source.path, source_fps)
    if source.is_picture:
        return np.zeros(1)
    return video_times(source.path)


def estimate_frame_rate(source: Source, source_fps: float) -> tuple[float, float] | None:
    """Pictures per second and approximate duration in seconds, from the headers of the file.

    None if it cannot be read; `frame_times` then says why.
    """
    with contextlib.suppress(ValueError):
        if source.is_folder or source.is_array:
            times = frame_times(source, source_fps)
            rate = (len(times) - 1) / times[-1] if times[-1] > 0 else source_fps
            return rate, len(times) / rate
        with open_video(source.path) as (container, stream):
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
            return (rate, seconds) if rate else None
    return None


def decode_pictures(source: Source, times: np.ndarray) -> Iterator[tuple[int, Picture]]:
    """Yield all pictures that can be decoded, in the order of display, with their numbers.

    Args:
        times: (K,) from `frame_times`. A picture's number is its index in it; pictures that are lost leave gaps.
    """
    if source.is_folder:
        yield from enumerate(map(read_picture, _picture_files(source.path)))
    elif source.is_array:
        yield from enumerate(map(Picture, _decode_array(source.path)))
    elif source.is_picture:
        yield 0, read_picture(source.path)
    else:
        yield from decode_video(source.path, times)


def caption_file(source: Source) -> Path | None:
    """The text file of the same name beside a recording, "run.txt" for "run.mp4"; None if there is none."""
    name = source.path.name if source.is_folder else source.path.stem
    path = source.path.with_name(f"{name}.txt")
    return path if path.is_file() else None


def file_stamp(source: Source, *files: Path | None) -> list[int]:
    """A fingerprint of a recording and the files beside it: number of files, their bytes, newest modification."""
    paths = _picture_files(source.path) if source.is_folder else [source.path]
    stats = [path.stat() for path in (*paths, *filter(None, files))]
    return [len(stats), sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)]


def buttons_from_names(source: Source) -> np.ndarray | None:
    """(K,) bit fields of buttons from the file names of a folder's pictures; None if a name has none."""
    if not source.is_folder:
        return None
    matches = [_ACTION_IN_NAME.search(path.name) for path in _picture_files(source.path)]
    return np.array([int(match[1]) for match in matches]) if all(matches) else None


def _natural_key(name: str) -> list:
    """A sorting key by which frame 2 comes before frame 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _picture_files(folder: Path) -> list[Path]:
    """A folder's pictures, sorted by the frame number `_f12` in their names, or else by name in natural order."""
    paths = [
        path
        for path in folder.iterdir()
        if not _is_foreign(Path(path.name)) and path.suffix.lower() in PICTURE_SUFFIXES
    ]
    numbers = [_FRAME_IN_NAME.search(path.name) for path in paths]
    if all(numbers):
        return [path for _, path in sorted(zip((int(match[1]) for match in numbers), paths, strict=True))]
    return sorted(paths, key=lambda path: _natural_key(path.name))


def frames_array_name(path: Path) -> str | None:
    """The name of the array of frames in an .npz; None if there is none, as in a file of actions."""
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return next((name for name in ("frames.npy", "video.npy") if name in archive.namelist()), None)
    return None


def _array_times(path: Path, source_fps: float) -> np.ndarray:
    """`frame_times` of an .npz: its array `time`, or a constant rate."""
    with _open_array(path) as ((num_frames, *_), _):
        pass
    try:
        with np.load(path, allow_pickle=False) as arrays:
            times = arrays["time"].astype(np.float64) if "time" in arrays else np.arange(num_frames) / source_fps
    except READ_ERRORS as error:
        raise ValueError(f"it cannot be read: {error}") from None
    if times.shape != (num_frames,) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError(f"its `time` is not an array of {num_frames} seconds in ascending order")
    return times - times[0]


@contextlib.contextmanager
def _open_array(path: Path) -> Iterator[tuple[tuple[int, ...], zipfile.ZipExtFile]]:
    """The shape (K, H, W, 3) of an .npz's frames, and the file of their bytes. Errors become ValueErrors."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(frames_array_name(path)) as file:
            yield _read_header(file), file
    except READ_ERRORS as error:
        raise ValueError(f"it cannot be read: {error}") from None


def _read_header(file) -> tuple[int, ...]:
    """The shape of an array of uint8 frames. Raises ValueError if it holds something else."""
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, is_fortran, dtype = read_header[np.lib.format.read_magic(file)](file)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not min(shape) or is_fortran:
        raise ValueError(f"its frames are {dtype} {shape}: expected uint8 (frames, height, width, 3)")
    return shape


def _decode_array(path: Path) -> Iterator[av.VideoFrame]:
    """Reads one frame at a time, so that the array may be larger than memory."""
    with _open_array(path) as ((num_frames, *shape), file):
        for _ in range(num_frames):
            frame = np.frombuffer(file.read(int(np.prod(shape))), np.uint8).reshape(shape)
            yield av.VideoFrame.from_ndarray(frame, format="rgb24")
