"""Importing recordings, against decoding them."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.importing import Importer, ImportVideoConfig
from data.recordings import find_sources, pictures


@dataclass(frozen=True)
class ImporterConfig:
    """Importing recordings, pictures alone, against decoding them with PyAV."""

    videos: Path  # folder of recordings
    size: str = "64x64"  # width x height of the frames
    fps: float | None = None  # of the frames; None: as scripts.import_video chooses


def measure(config: ImporterConfig) -> dict:
    """Seconds of the clock and of the processor; the median of three runs each, in turn."""
    sources, counts, measured = find_sources(config.videos), [], {"decode": [], "import": []}

    def decode() -> None:
        counts.append(sum(1 for source in sources for _ in pictures(source)))

    def import_all() -> None:
        with tempfile.TemporaryDirectory() as folder:
            wanted = ImportVideoConfig(config.videos, Path(folder) / "set", config.size, "crop", config.fps, "none")
            Importer(wanted, print).run(lambda num_frames: None)

    for _ in range(3):
        for name, work in (("decode", decode), ("import", import_all)):
            start, cpu_start = time.perf_counter(), sum(os.times()[:4])  # of the other processes too
            work()
            measured[name].append((time.perf_counter() - start, sum(os.times()[:4]) - cpu_start))
    medians = {name: np.median(times, axis=0) for name, times in measured.items()}
    results = {"pictures": counts[0], "size": config.size}
    for name, (secs, cpu_secs) in medians.items():
        results |= {f"{name}_pictures_per_sec": counts[0] / secs, f"{name}_pictures_per_cpu_sec": counts[0] / cpu_secs}
    results["ratio"], results["ratio_of_cpu"] = (medians["decode"] / medians["import"]).tolist()
    return results
