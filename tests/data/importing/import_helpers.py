"""Helpers of the tests of importing."""

from pathlib import Path

import numpy as np
from recordings import play

from dreamrun.data.index import split_shards
from dreamrun.data.metadata import read_metadata
from dreamrun.data.shards import ShardReader


def read_recording(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """All frames and actions of a data set, in the order of splits and shards."""
    frames, actions = [], []
    for split in ("train", "val", "test"):
        if (out / split).is_dir():
            paths = split_shards(out, split)
            reader = ShardReader(paths, read_metadata(out))
            for shard in range(len(paths)):
                records = [reader.read(shard, number) for number in range(reader.num_records(shard))]
                frames += [record.frames for record in records]
                actions += [record.actions for record in records]
    return np.concatenate(frames), np.concatenate(actions)


def vectors_from_speed(speed: np.ndarray) -> np.ndarray:
    """The recorded actions that `write_csv` writes."""
    zeros = np.zeros(len(speed))
    return np.stack([speed < 0, speed > 0, zeros, zeros, speed / 20, zeros], axis=1).astype(np.float32)


def psnr(truth: np.ndarray, frames: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(truth.astype(float) - frames).mean())


def write_clips(recordings: Path, count: int, num_frames: int = 30) -> None:
    for i in range(count):
        frames, speed = play(num_frames, 32, 32, seed=i)
        np.savez(recordings / f"clip{i}.npz", frames=frames, actions=vectors_from_speed(speed))
