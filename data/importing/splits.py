"""Which recordings, or parts of recordings, belong to which split."""

from __future__ import annotations

import zlib
from pathlib import Path

from dreamrun.data.episode_writer import MAX_FRAMES

SPLITS = ("train", "val", "test")
MIN_RECORDINGS_TO_HOLD_OUT = 10  # with fewer, parts of each recording are held out in place of whole recordings
# Share held out for val, and as much for test: of the recordings, or, with few recordings, of each of them.
HELD_OUT_FRACTION = 0.05
MAX_HELD_OUT_FRACTION = 0.15  # of a short recording, for each of val and test


def plan_splits(names: list[str]) -> dict[str, str | None]:
    """The split of each recording, by name. None: the recording is divided between all splits.

    If recordings are in folders named train, val and test, these are their splits. Otherwise whole recordings are held
    out, chosen by a hash of their names. If there are too few for that, each recording is divided.
    """
    top_folders = {name: Path(name).parts[0] for name in names if len(Path(name).parts) > 1}
    if any(folder in SPLITS for folder in top_folders.values()):
        return {name: top_folders[name] if top_folders.get(name) in SPLITS else "train" for name in names}
    if len(names) < MIN_RECORDINGS_TO_HOLD_OUT:
        return dict.fromkeys(names)
    num_held_out = max(1, round(HELD_OUT_FRACTION * len(names)))
    shuffled = sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))
    return {name: SPLITS[1 + i // num_held_out] if i < 2 * num_held_out else "train" for i, name in enumerate(shuffled)}


def split_ranges(split: str | None, num_frames: int) -> list[tuple[str, int, int]]:
    """Parts of a recording: split, first frame, and the frame after the last.

    Args:
        split: of the whole recording, or None to divide it.
    """
    if split:
        return [(split, 0, num_frames)]
    held_out = int(min(max(HELD_OUT_FRACTION * num_frames, MAX_FRAMES), MAX_HELD_OUT_FRACTION * num_frames))
    val, test = num_frames - 2 * held_out, num_frames - held_out
    return [("train", 0, val), ("val", val, test), ("test", test, num_frames)]
