"""A clip that a user names: a record of a data set, a video, or a picture."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamrun.data.dataset import ClipDataset
from dreamrun.data.importing.pictures import Resizer, pictures_at_ticks
from dreamrun.data.importing.sources import Source, decode_pictures, frame_times
from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import METADATA_FILE
from dreamrun.games.game import Game
from dreamrun.games.space import ActionSpace

_PARTS = re.compile(r"(?P<path>.*?)(?::(?P<record>\d+))?(?::(?P<start>\d+)-(?P<end>\d+))?")


@dataclass(frozen=True)
class SourceClip:
    """A clip, and what surrounds it."""

    frames: np.ndarray  # uint8 (T, H, W, C)
    actions: np.ndarray  # recorded actions, (T,) or (T, names); unknown for a video
    all_frames: np.ndarray  # the whole recording
    all_actions: np.ndarray
    start: int  # of the clip in the recording
    metadata: Game | None = None  # of its data set; None: a video or picture

    @property
    def is_record(self) -> bool:
        """Whether it comes from a data set, so that what surrounds it is true play."""
        return self.metadata is not None


def read_source(name: str, width: int, height: int, fps: float, space: ActionSpace) -> SourceClip:
    """Read `PATH`, `PATH:START-END` or, of a data set, `PATH:RECORD` or `PATH:RECORD:START-END`.

    A data set's held-out split is read. Frames are counted from 0, at the game's frame rate, and END is not included.

    Args:
        width, height: of the model's frames; a video or picture is cropped and resized to it.
        fps: of the game; a video is resampled to it.
        space: the model's actions, which a video does not have.
    """
    match = _PARTS.fullmatch(name)
    assert match
    path, start, end = Path(match["path"]), match["start"], match["end"]
    metadata = None
    if (path / METADATA_FILE).is_file():
        dataset = ClipDataset(path, held_out_split(path), clip_frames=1)
        number, num_records = int(match["record"] or 0), len(dataset.index.lengths)
        if number >= num_records:
            raise ValueError(f"{name}: {path}/{dataset.split} has {num_records} records, 0 to {num_records - 1}")
        record = next(dataset.records([number]))
        frames, actions, metadata = record.frames, record.leading_actions(), dataset.metadata
    elif match["record"]:
        raise ValueError(f"{name}: {path} is not a data set, so it has no record {match['record']}")
    else:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, but not a data set: it has no {METADATA_FILE}")
        frames = _read_frames(path, width, height, fps)
        actions = space.unknown(len(frames))
    first, last = (0, len(frames)) if start is None else (int(start), int(end))
    if not first < last <= len(frames):
        raise ValueError(f"{name}: {path} has {len(frames)} frames at {fps:g} a second: name some of 0-{len(frames)}")
    return SourceClip(frames[first:last], actions[first:last], frames, actions, first, metadata)


def read_clip(path: Path, num_frames: int, width: int, height: int, fps: float) -> np.ndarray:
    """The last frames of a video at `fps`, cropped to the given size: uint8 (num_frames, height, width, 3)."""
    frames = _read_frames(path, width, height, fps, num_frames)
    if len(frames) < num_frames:
        raise ValueError(f"{path} has only {len(frames)} frames at {fps:g} frames per second: {num_frames} are needed")
    return frames


def _read_frames(path: Path, width: int, height: int, fps: float, num_last: int = 0) -> np.ndarray:
    """All frames of a video or picture at `fps`, or the last ones: uint8 (T, height, width, 3)."""
    if not path.exists():
        raise ValueError(f"there is no clip at {path}")
    source, resize = Source(path.stem, path), Resizer(width, height, "crop")
    try:
        times = frame_times(source, fps)
        shown = pictures_at_ticks(times, fps)[-num_last:]
        wanted = set(shown.tolist())
        decoded = {number: resize(picture) for number, picture in decode_pictures(source, times) if number in wanted}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not decoded:
        raise ValueError(f"{path}: no picture in it can be decoded")
    numbers = sorted(decoded)
    nearest = [numbers[max(0, np.searchsorted(numbers, number, side="right") - 1)] for number in shown.tolist()]
    return np.stack([decoded[number] for number in nearest])
