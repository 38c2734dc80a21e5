"""Importing recordings, against decoding them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.importing.sources import find_sources, pictures

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ImporterConfig:
    """Importing recordings, pictures alone, against decoding them with PyAV."""

    videos: Path  # folder of recordings
    size: str = "64x64"  # width x height of the frames
    fps: float | None = None  # of the frames; None: as scripts.import_video chooses


def measure(config: ImporterConfig) -> dict:
    """Seconds of the clock and of the processor; the median of three runs each, in turn.

    The import is the command that people run, in processes of its own: what it takes to start counts.

    Raises:
        ValueError: nothing can be imported; with what the command says.
    """
    sources, counts, measured = find_sources(config.videos), [], {"decode": [], "import": []}

    def decode() -> None:
        counts.append(sum(1 for source in sources for _ in pictures(source, times=np.zeros(0))))

    def import_all() -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "scripts.import_video", "--videos", config.videos.resolve(), "--out"]
            command += [f"{folder}/set", "--size", config.size, "--actions", "none"]
            command += ["--fps", str(config.fps)] if config.fps is not None else []
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))

    for _ in range(3):
        for name, work in (("decode", decode), ("import", import_all)):
            start, cpu_start = time.perf_counter(), _cpu_secs()
            work()
            measured[name].append((time.perf_counter() - start, _cpu_secs() - cpu_start))
    medians = {name: np.median(times, axis=0) for name, times in measured.items()}
    results = {"pictures": counts[0], "size": config.size}
    for name, (secs, cpu_secs) in medians.items():
        results |= {f"{name}_pictures_per_sec": counts[0] / secs, f"{name}_pictures_per_cpu_sec": counts[0] / cpu_secs}
    results["ratio"], results["ratio_of_cpu"] = (medians["decode"] / medians["import"]).tolist()
    return results


def _cpu_secs() -> float:
    """Of this process, and of those that it has started and waited for."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system
