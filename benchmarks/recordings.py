"""Speed of importing recordings, compared with decoding them."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamrun.benchmarks.machine import cpu_secs
from dreamrun.data.importing.sources import decode_pictures, find_sources


@dataclass(frozen=True)
class ImporterConfig:
    """Speed of importing recordings without actions, compared with decoding them with PyAV."""

    videos: Path  # folder of recordings
    size: str = "64x64"  # width x height of the frames
    fps: float | None = None  # of the data set; None: as scripts.import_video chooses


def measure(config: ImporterConfig) -> dict:
    """Pictures per second and per cpu-second: medians of three runs of each, alternating.

    The import is the command that users run, including the time that its processes take to start.
    """
    sources, counts, measured = find_sources(config.videos), [], {"decode": [], "import": []}

    def decode() -> None:
        counts.append(sum(1 for source in sources for _ in decode_pictures(source, times=np.zeros(0))))

    def import_all() -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "dreamrun.scripts.import_video", "--videos", config.videos.resolve()]
            command += ["--out", f"{folder}/set", "--size", config.size, "--actions", "none"]
            command += ["--fps", str(config.fps)] if config.fps is not None else []
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))

    for _ in range(3):
        for name, work in (("decode", decode), ("import", import_all)):
            start, cpu_start = time.perf_counter(), cpu_secs()
            work()
            measured[name].append((time.perf_counter() - start, cpu_secs() - cpu_start))
    medians = {name: np.median(times, axis=0) for name, times in measured.items()}
    results = {"pictures": counts[0], "size": config.size}
    for name, (secs, spent) in medians.items():
        results |= {f"{name}_pictures_per_sec": counts[0] / secs, f"{name}_pictures_per_cpu_sec": counts[0] / spent}
    results["ratio"], results["ratio_of_cpu"] = (medians["decode"] / medians["import"]).tolist()
    return results
