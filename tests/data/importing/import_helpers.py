"""Helpers of the tests of importing."""

from pathlib import Path

import numpy as np
from recordings import play
from tiny import records_of


def read_recording(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """All frames and actions of a data set, in the order of splits and shards."""
    splits = [split for split in ("train", "val", "test") if (out / split).is_dir()]
    records = [record for split in splits for record in records_of(out, split)]
    return np.concatenate([record.frames for record in records]), np.concatenate([record.actions for record in records])


def vectors_from_speed(speed: np.ndarray) -> np.ndarray:
    """The recorded actions that `write_csv` writes."""
    zeros = np.zeros(len(speed))
    return np.stack([speed < 0, speed > 0, zeros, zeros, speed / 20, zeros], axis=1).astype(np.float32)


def write_clips(recordings: Path, count: int, num_frames: int = 30) -> None:
    for i in range(count):
        frames, speed = play(num_frames, 32, 32, seed=i)
        np.savez(recordings / f"clip{i}.npz", frames=frames, actions=vectors_from_speed(speed))
