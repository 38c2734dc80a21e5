"""Read the end of a single video, as a prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dreamrun.data.importing.resampling import pictures_at_ticks
from dreamrun.data.importing.resizing import Fitter
from dreamrun.data.importing.sources import Source, decode_pictures, frame_times


def read_clip(path: Path, num_frames: int, width: int, height: int, fps: float) -> np.ndarray:
    """The last frames of a video at `fps`, cropped to the given size: uint8 (num_frames, height, width, 3).

    Raises:
        ValueError: the video cannot be read, or has fewer frames.
    """
    if not path.exists():
        raise ValueError(f"no video at {path}")
    source, fitter = Source(path.stem, path), Fitter(width, height, "crop")
    try:
        times = frame_times(source, fps)
        numbers = pictures_at_ticks(times, fps)[-num_frames:]
        frames = {i: fitter(picture) for i, picture in decode_pictures(source, times) if i in numbers}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(numbers) < num_frames or not frames:
        raise ValueError(f"{path} has only {len(numbers)} frames at {fps:g} frames per second: {num_frames} are needed")
    return np.stack([frames[i] if i in frames else frames[max(frames)] for i in numbers.tolist()])
