"""The shards of one recording in a partial data set, found by their file names."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from dreamrun.data.shards import SUFFIX


def shard_name(recording: str) -> str:
    """File name of a recording's shards before their number: valid on every file system, unique by a hash."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", recording)[-40:].strip("-")
    return f"{plain}-{zlib.crc32(recording.encode()):08x}"


def remove_shards(partial: Path, recording: str) -> None:
    """Delete all shards of a recording, temporary files included."""
    for path in partial.glob(f"*/{shard_name(recording)}_*"):
        path.unlink()


def ensure_validation_split(partial: Path, entries: dict[str, dict]) -> None:
    """If no recording is held out, move the shards of the last training recording to val, if there are two or more.

    Args:
        entries: of the journal, by recording; updated.
    """
    train = [name for name, entry in entries.items() if [*entry["splits"]] == ["train"]]
    if any("val" in entry["splits"] for entry in entries.values()) or len(train) < 2:
        return
    (partial / "val").mkdir(exist_ok=True)
    for path in (partial / "train").glob(f"{shard_name(train[-1])}_*{SUFFIX}"):
        path.rename(partial / "val" / path.name)
    entries[train[-1]]["splits"] = {"val": entries[train[-1]]["splits"]["train"]}
