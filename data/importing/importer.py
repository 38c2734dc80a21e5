"""Recordings of any game -> a data set.

A recording is the unit of work: its shards are its own, so several processes share the work, and an interrupted import
goes on with the recordings that are not done. Whatever is wrong with one is told, and it is left out.
"""

from __future__ import annotations

import copy
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np

from data.actions import UNCONDITIONAL
from data.dataset import prefetch
from data.dataset_folder import begin_partial, check_free, finish_partial
from data.episode_writer import MAX_FRAMES, EpisodeWriter
from data.importing.fitting import Fit, Fitter
from data.importing.recorded_actions import ACTION_SUFFIXES, Description, read_actions, read_description
from data.importing.resampling import resample, ticks
from data.importing.sources import Source, buttons_in_names, find_sources, frame_rate, frame_times, pictures, stamp
from data.metadata import Metadata, parse_size
from data.shards import SUFFIX
from data.workers import CONTEXT, worker_pool

SPLITS = ("train", "val", "test")
ENOUGH_RECORDINGS = 10  # for whole ones to be held out
HELD_OUT = 0.05  # share of the recordings, or of each one, that is for val, and again for test
MOST_FPS = 20.0  # of the data set, if it is not said
AT_ONCE = 32  # frames that are handed over by the thread that decodes to the one that packs and writes records
TELL_SECS = 0.2  # between looks at how far the other processes are
FRAMES_A_WORKER = 3000  # fewer take no longer than a process does to start
JOURNAL = "imported.jsonl"  # in the partial folder: a line for each recording that is done


@dataclass(frozen=True)
class ImportVideoConfig:
    """What to import, and how."""

    videos: Path  # folder of recordings: videos, folders of pictures, .npz of frames; and a file of actions beside each
    out: Path  # the data set folder; must be empty or not be there yet
    size: str = "64x64"  # width x height of a frame, pixels; multiples of 8 for the presets
    fit: Fit = "crop"  # pictures of another shape: cut off their edges, pad them with black, or stretch them
    fps: float | None = None  # frames a second of the data set; None: the slowest recording's own, 20 at most
    # Which files hold actions; auto: whichever is there; names: the names of a folder's pictures; none: no actions.
    actions: Literal["auto", "csv", "jsonl", "npz", "names", "none"] = "auto"
    describe: Path | None = None  # what the actions are; None: VIDEOS/actions.toml
    source_fps: float = 15.0  # pictures a second of folders and arrays, which do not tell
    environment: str | None = None  # the game's name; None: that of the folder
    min_frames: int = 8  # a tail shorter than this is left out
    overwrite: bool = False  # replace what is in the folder
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))  # processes, a recording each at a time

    def __post_init__(self):
        parse_size(self.size)
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}: at least one process is needed")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"fps is {self.fps}: it must be positive")
        if not 0 < self.source_fps < float("inf"):
            raise ValueError(f"source_fps is {self.source_fps}: it must be positive")
        if not 1 <= self.min_frames <= MAX_FRAMES:
            raise ValueError(f"min_frames is {self.min_frames}: it must lie in 1 to {MAX_FRAMES}")


class Importer:
    """One import.

    Args:
        tell: called with a line about each recording that is left out.

    Raises:
        ValueError: settings, or a folder, that nothing can be made of; nothing is touched then.
    """

    def __init__(self, config: ImportVideoConfig, tell: Callable[[str], None]):
        self.config, self.tell = config, tell
        check_free(config.out, config.overwrite)
        self.sources = find_sources(config.videos)
        for path in (config.videos, config.describe):
            if path and path.resolve().is_relative_to(config.out.resolve()):
                raise ValueError(f"{path} lies in {config.out}, and would be replaced: choose another --out")
        if config.actions == "none":
            self.description = Description(UNCONDITIONAL, {}, ())
        else:
            self.description = read_description(config.describe or config.videos / "actions.toml")
        rates = {
            source.name: rate
            for source in self.sources
            if self._has_actions(source) and (rate := frame_rate(source, config.source_fps))
        }
        self.fps = config.fps or round(min([MOST_FPS, *(rate for rate, _ in rates.values())]), 3)
        self.lengths = {name: int(seconds * self.fps) for name, (_, seconds) in rates.items()}
        self.skipped: dict[str, str] = {}
        width, height = parse_size(config.size)
        self._fitter = Fitter(width, height, config.fit)
        self._shape = (height, width, 3)
        self._plan = plan_splits([source.name for source in self.sources])

    @property
    def num_frames(self) -> int:
        """How many frames there will be, about."""
        return sum(self.lengths.values())

    def run(self, progress: Callable[[int], None]) -> dict:
        """Import everything; the data set appears under `config.out` at once, when all is done.

        Args:
            progress: called with the number of frames newly done; those of an earlier, interrupted run come first.

        Returns:
            What metadata.json says.

        Raises:
            ValueError: nothing could be imported.
        """
        metadata = self._metadata()
        partial = begin_partial(self.config.out, self.config.overwrite, metadata, key="import")
        stamps = {source.name: stamp(source, self._action_file(source)) for source in self.sources}
        done = {name: entry for name, entry in _read_journal(partial).items() if entry.get("stamp") == stamps.get(name)}
        for entry in done.values():
            progress(entry["frames"])
        todo = [source for source in self.sources if source.name not in done]
        for source, entry, trouble in self._outcomes(todo, partial, progress):
            if trouble:
                self.skipped[source.name] = trouble
                self.tell(f"skipped {source.path}: {trouble}")
                continue
            done[source.name] = entry
            with (partial / JOURNAL).open("a") as file:
                file.write(json.dumps({"name": source.name, "stamp": stamps[source.name], **entry}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        if not done:
            first = next(self.skipped[source.name] for source in todo)
            raise ValueError(f"nothing in {self.config.videos} could be imported; the first: {first}")
        # Whichever was done first, the data set is the same.
        done, self.skipped = (
            {source.name: some[source.name] for source in self.sources if source.name in some}
            for some in (done, self.skipped)
        )
        _fill_splits(partial, done)
        metadata["splits"] = {
            split: {kind: sum(entry["splits"].get(split, {}).get(kind, 0) for entry in done.values())
                    for kind in ("records", "frames")}
            for split in SPLITS if any(split in entry["splits"] for entry in done.values())
        }  # fmt: skip
        metadata["recordings"] = {name: {"splits": entry["splits"]} for name, entry in done.items()}
        metadata["skipped"] = self.skipped
        finish_partial(partial, self.config.out, metadata)
        (self.config.out / JOURNAL).unlink(missing_ok=True)
        return metadata

    def _metadata(self) -> dict:
        config = self.config
        space, name = self.description.space, config.environment or config.videos.resolve().name
        described = Metadata(name, (), self._shape, self.fps, space)
        settings = {name: getattr(config, name) for name in ("size", "fit", "actions", "source_fps", "min_frames")}
        settings |= {"videos": str(config.videos), "fps": self.fps, "sources": [source.name for source in self.sources]}
        settings |= {"ignored": self.description.ignored, "recorded": self.description.recorded}
        return {**described.to_dict(), "import": settings | space.to_dict()}

    def _outcomes(
        self, sources: list[Source], partial: Path, progress: Callable[[int], None]
    ) -> Iterator[tuple[Source, dict | None, str]]:
        """Import recordings; of each, in the order they are done, its entry of the journal, or what was wrong."""
        num_frames = sum(self.lengths.get(source.name, 0) for source in sources)
        workers = min(self.config.workers, len(sources), num_frames // FRAMES_A_WORKER)
        if workers <= 1:
            yield from ((source, *self._outcome(source, partial, progress)) for source in sources)
            return
        worker, frames_done, stop = copy.copy(self), CONTEXT.SimpleQueue(), CONTEXT.Event()
        worker.tell = None  # the parent tells
        with worker_pool(workers, _share, worker, partial, frames_done, stop) as pool:
            pending = {pool.submit(_outcome_in_worker, source): source for source in sources}
            try:
                while pending:
                    finished = wait(pending, TELL_SECS, FIRST_COMPLETED).done
                    while not frames_done.empty():
                        progress(frames_done.get())
                    for future in finished:
                        yield pending.pop(future), *future.result()
            finally:
                stop.set()

    def _outcome(self, source: Source, partial: Path, progress: Callable[[int], None]) -> tuple[dict | None, str]:
        try:
            return self._import(source, partial, progress), ""
        except ValueError as error:
            _remove_shards(partial, source)
            return None, str(error)

    def _import(self, source: Source, partial: Path, progress: Callable[[int], None]) -> dict:
        """Import a recording; what became of it, for the journal. Raises ValueError if it cannot be used."""
        _remove_shards(partial, source)  # of an import that was killed
        times = frame_times(source, self.config.source_fps)
        shown = ticks(times, self.fps)
        actions = self._actions(source, times, len(shown))
        stretches, splits = self._stretches(source, len(shown)), {}
        with closing(prefetch(_lists(self._frames(source, shown, times)))) as ahead:
            frames = chain.from_iterable(ahead)
            for split, start, end in stretches:
                name, space, least = _shard_name(source), self.description.space, self.config.min_frames
                with EpisodeWriter(partial, space, self.fps, split, shard_name=name, min_frames=least) as writer:
                    for tick in range(start, end):
                        writer.add(next(frames), actions[tick])
                        if (tick + 1) % MAX_FRAMES == 0:
                            progress(MAX_FRAMES)
                if writer.num_records:
                    splits[split] = {"records": writer.num_records, "frames": writer.num_frames}
            for _ in frames:  # to its end, which tells whether it is whole
                pass
        if not splits:
            raise ValueError(f"it has only {len(shown)} frames, fewer than --min-frames {self.config.min_frames}")
        progress(len(shown) % MAX_FRAMES)
        return {"frames": len(shown), "splits": splits}

    def _stretches(self, source: Source, num_ticks: int) -> list[tuple[str, int, int]]:
        """Split, first tick, and the one after the last."""
        split = self._plan[source.name]
        if split:
            return [(split, 0, num_ticks)]
        held_out = int(min(max(HELD_OUT * num_ticks, MAX_FRAMES), 0.15 * num_ticks))
        val, test = num_ticks - 2 * held_out, num_ticks - held_out
        return [("train", 0, val), ("val", val, test), ("test", test, num_ticks)]

    def _actions(self, source: Source, times: np.ndarray, num_ticks: int) -> np.ndarray:
        space, wanted = self.description.space, self.config.actions
        if wanted == "none":
            return np.zeros(num_ticks, np.int32)
        if wanted == "names" or (wanted == "auto" and source.is_folder and not self._action_file(source)):
            bits = buttons_in_names(source)
            if bits is not None:
                return resample(times, self.description.from_array(bits), space, num_ticks, self.fps)
        path = self._action_file(source)
        if not path:
            if wanted == "names":
                raise ValueError("the names of its pictures tell no buttons (..._a20_...)")
            kinds = ACTION_SUFFIXES if wanted == "auto" else (f".{wanted}",)
            names = ", ".join(f"{Path(source.name).name}{kind}" for kind in kinds)
            raise ValueError(f"it has no actions beside it ({names}): --actions none imports pictures alone")
        return resample(*read_actions(path, self.description, times), space, num_ticks, self.fps)

    def _has_actions(self, source: Source) -> bool:
        """Whether there are some, or none are wanted."""
        return bool(self.config.actions == "none" or self._action_file(source) or buttons_in_names(source) is not None)

    def _action_file(self, source: Source) -> Path | None:
        wanted = self.config.actions
        kinds = ACTION_SUFFIXES if wanted == "auto" else (f".{wanted}",)
        paths = [source.path.with_name(Path(source.name).name + kind) for kind in kinds]
        return next((path for path in paths if path.is_file()), None)

    def _frames(self, source: Source, shown: np.ndarray, times: np.ndarray) -> Iterator[np.ndarray]:
        """The frame of each tick, uint8 (H, W, 3); a picture that no tick shows is decoded, no more."""
        tick = num_decoded = 0
        frame = None
        for number, picture in pictures(source, times):
            while frame is not None and tick < len(shown) and shown[tick] < number:  # of pictures that are lost
                tick += 1
                yield frame
            if tick < len(shown) and shown[tick] <= number:
                frame = self._fitter(picture)
                while tick < len(shown) and shown[tick] <= number:
                    tick += 1
                    yield frame
            num_decoded += 1
        if not num_decoded or abs(len(times) - num_decoded) > max(2, 0.01 * len(times)):
            raise ValueError(f"only {num_decoded} of its {len(times)} pictures can be decoded")
        for _ in range(tick, len(shown)):  # the last ones are not decoded by all
            yield frame


_worker: tuple = ()  # in another process: an importer, the partial folder, a queue of frames done, an event to stop by


def _share(*shared) -> None:
    global _worker
    _worker = shared


def _outcome_in_worker(source: Source) -> tuple[dict | None, str]:
    importer, partial, frames_done, stop = _worker

    def progress(num_frames: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        frames_done.put(num_frames)

    return importer._outcome(source, partial, progress)


def read_clip(path: Path, num_frames: int, width: int, height: int, fps: float) -> np.ndarray:
    """The last frames of a video, uint8 (num_frames, height, width, 3), at `fps`; what does not fit is cut off.

    Raises:
        ValueError: it cannot be read, or is shorter than that.
    """
    if not path.exists():
        raise ValueError(f"no video at {path}")
    source, fitter = Source(path.stem, path), Fitter(width, height, "crop")
    try:
        times = frame_times(source, fps)
        wanted = ticks(times, fps)[-num_frames:]
        frames = {i: fitter(picture) for i, picture in pictures(source, times) if i in wanted}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(wanted) < num_frames or not frames:
        raise ValueError(f"{path} has only {len(wanted)} frames at {fps:g} a second: {num_frames} are needed")
    return np.stack([frames[i] if i in frames else frames[max(frames)] for i in wanted.tolist()])


def plan_splits(names: list[str]) -> dict[str, str]:
    """Which split each recording goes to; "": it is cut into stretches, as there are too few to hold whole ones out.

    Where the recordings lie in folders train, val and test, that is kept. Else it follows from their names alone.
    """
    given = {name: Path(name).parts[0] for name in names if len(Path(name).parts) > 1}
    if any(split in SPLITS for split in given.values()):
        return {name: given[name] if given.get(name) in SPLITS else "train" for name in names}
    if len(names) < ENOUGH_RECORDINGS:
        return dict.fromkeys(names, "")
    held_out = max(1, round(HELD_OUT * len(names)))
    shuffled = sorted(names, key=lambda name: (zlib.crc32(name.encode()), name))
    return {name: SPLITS[1 + i // held_out] if i < 2 * held_out else "train" for i, name in enumerate(shuffled)}


def _fill_splits(partial: Path, done: dict[str, dict]) -> None:
    """Where nothing is left to validate with, one of the training recordings becomes that."""
    split = "val"
    train = [name for name, entry in done.items() if [*entry["splits"]] == ["train"]]
    if any(split in entry["splits"] for entry in done.values()) or len(train) < 2:
        return
    (partial / split).mkdir(exist_ok=True)
    for path in (partial / "train").glob(f"{_shard_name_of(train[-1])}_*{SUFFIX}"):
        path.rename(partial / split / path.name)
    done[train[-1]]["splits"] = {split: done[train[-1]]["splits"]["train"]}


def _lists(frames: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """A list of AT_ONCE at a time, as handing them over one by one takes time."""
    while some := list(islice(frames, AT_ONCE)):
        yield some


def _shard_name(source: Source) -> str:
    return _shard_name_of(source.name)


def _shard_name_of(name: str) -> str:
    """Of letters that every file system takes, and another one for every recording."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name)[-40:].strip("-")
    return f"{plain}-{zlib.crc32(name.encode()):08x}"


def _remove_shards(partial: Path, source: Source) -> None:
    for path in partial.glob(f"*/{_shard_name(source)}_*"):
        path.unlink()


def _read_journal(partial: Path) -> dict[str, dict]:
    """By recording, what is done; a line that was cut off by a kill is not."""
    done = {}
    path = partial / JOURNAL
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        done[entry.pop("name")] = entry
    return done
