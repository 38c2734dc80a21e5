"""Settings of an import."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dreamrun.data.captions import check_caption
from dreamrun.data.episode_writer import MAX_FRAMES
from dreamrun.data.importing.resizing import Fit
from dreamrun.data.metadata import parse_size


@dataclass(frozen=True)
class ImportVideoConfig:
    """What to import, and how."""

    # Folder of recordings: videos, folders of pictures or .npz of frames, each with an action file of the same name.
    videos: Path
    out: Path  # the data set folder; must be empty or not exist yet
    size: str = "64x64"  # width x height of a frame, pixels; multiples of 8 for the presets
    fit: Fit = "crop"  # pictures of another aspect ratio: crop their edges, pad them with black, or stretch them
    fps: float | None = None  # frames per second of the data set; None: that of the slowest recording, at most 20
    # Which files hold actions; auto: whichever exists; names: the names of a folder's pictures; none: no actions.
    actions: Literal["auto", "csv", "jsonl", "npz", "names", "none"] = "auto"
    describe: Path | None = None  # the description of the actions; None: VIDEOS/actions.toml
    source_fps: float = 15.0  # pictures per second of folders and arrays, which do not store it
    environment: str | None = None  # the game's name; None: the name of the folder
    caption: str = ""  # what is played, in words, for recordings without a text file of the same name beside them
    min_frames: int = 8  # the end of a recording is dropped if it is shorter than this
    overwrite: bool = False  # replace the folder, if it is a data set and holds nothing else
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))  # processes; each imports one recording

    def __post_init__(self):
        parse_size(self.size)
        check_caption(self.caption)
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}: at least one process is needed")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"fps is {self.fps}: it must be positive")
        if not 0 < self.source_fps < float("inf"):
            raise ValueError(f"source_fps is {self.source_fps}: it must be positive")
        if not 1 <= self.min_frames <= MAX_FRAMES:
            raise ValueError(f"min_frames is {self.min_frames}: it must be in 1 to {MAX_FRAMES}")
