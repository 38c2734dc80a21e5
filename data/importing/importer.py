"""Import recordings of any game into a data set.

A recording is the unit of work: it has shards of its own, so several processes can import recordings in parallel, and
an interrupted import continues with the recordings that are missing. A recording that cannot be used is reported and
skipped.
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from dreamrun.data.dataset_folder import JOURNAL_FILE, begin_partial, check_free, finish_partial
from dreamrun.data.episode_writer import MAX_RECORD_FRAMES, EpisodeWriter
from dreamrun.data.importing.description import Description, read_description
from dreamrun.data.importing.pictures import Fit, Resizer, pictures_at_ticks
from dreamrun.data.importing.recorded_actions import find_action_file, has_actions, load_actions
from dreamrun.data.importing.sources import (
    Source,
    caption_file,
    decode_pictures,
    estimate_frame_rate,
    file_stamp,
    find_sources,
    frame_times,
)
from dreamrun.data.index import SPLITS
from dreamrun.data.shards import SUFFIX
from dreamrun.data.workers import SPAWN, prefetch, worker_pool
from dreamrun.games.game import MAX_CAPTION_CHARS, Fps, Game, check_caption, parse_size
from dreamrun.games.ranges import Positive, Range, check_ranges
from dreamrun.games.space import UNCONDITIONAL
from dreamrun.games.untrusted import MAX_NAME_CHARS, printable

MAX_DEFAULT_FPS = 20.0  # maximum frame rate of the data set if the settings do not say one
PROGRESS_SECS = 0.2  # between updates of the progress of worker processes
FRAMES_PER_CHUNK = 32  # passed at a time from the thread that decodes to the one that compresses and writes
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MIN_RECORDINGS_TO_HOLD_OUT = 10  # with fewer, parts of each recording are held out in place of whole recordings
# Share held out for val, and as much for test: of the recordings, or, with few recordings, of each of them.
HELD_OUT_FRACTION = 0.05
MAX_HELD_OUT_FRACTION = 0.15  # of a short recording, for each of val and test


@dataclass(frozen=True)
class ImportVideoConfig:
    """What to import, and how."""

    # Folder of recordings: videos, folders of pictures or .npz of frames, each with an action file of the same name.
    videos: Path
    out: Path  # the data set folder; must be empty or not exist yet
    size: str = "64x64"  # width x height of a frame, pixels; multiples of 8 for the presets
    fit: Fit = "crop"  # pictures of another aspect ratio: crop their edges, pad them with black, or stretch them
    fps: Fps | None = None  # frames per second of the data set; None: that of the slowest recording, at most 20
    # Which files hold actions; auto: whichever exists; names: the names of a folder's pictures; none: no actions.
    actions: Literal["auto", "csv", "jsonl", "npz", "names", "none"] = "auto"
    describe: Path | None = None  # the description of the actions; None: VIDEOS/actions.toml
    source_fps: Fps = 15.0  # pictures per second of folders and arrays, which do not store it
    environment: str | None = None  # the game's name; None: the name of the folder
    caption: str = ""  # what is played, in words, for recordings without a text file of the same name beside them
    min_frames: Annotated[int, Range(1, MAX_RECORD_FRAMES)] = 8  # a shorter end of a recording is dropped
    overwrite: bool = False  # replace the folder, if it is a data set and holds nothing else
    workers: Positive = field(default_factory=lambda: len(os.sched_getaffinity(0)))  # processes, each for one recording

    def __post_init__(self):
        parse_size(self.size)
        check_caption(self.caption)
        check_ranges(self)


class Importer:
    """One import.

    Args:
        config: the settings.
        report_skipped: called with one line of text for each recording that is skipped.
        min_frames_per_worker: importing fewer frames takes no longer than starting a process.
    """

    def __init__(
        self, config: ImportVideoConfig, report_skipped: Callable[[str], None], min_frames_per_worker: int = 3000
    ):
        self.config, self.report_skipped, self._min_frames_per_worker = config, report_skipped, min_frames_per_worker
        for path in (config.videos, config.describe):
            if path and path.resolve().is_relative_to(config.out.resolve()):
                raise ValueError(f"{path} is inside {config.out} and would be replaced: choose another out folder")
        check_free(config.out, config.overwrite)
        self.sources = find_sources(config.videos)
        if config.actions == "none":
            self.description = Description(UNCONDITIONAL, {}, ())
        else:
            self.description = read_description(config.describe or config.videos / "actions.toml")
        rates = {
            source.name: rate
            for source in self.sources
            if has_actions(source, config.actions) and (rate := estimate_frame_rate(source, config.source_fps))
        }
        self.fps = config.fps or round(min([MAX_DEFAULT_FPS, *(rate for rate, _ in rates.values())]), 3)
        self.lengths = {name: int(seconds * self.fps) for name, (_, seconds) in rates.items()}  # approximate
        self.skipped: dict[str, str] = {}  # recording -> reason
        plan = plan_splits([source.name for source in self.sources])
        self._recording_importer = RecordingImporter(config, self.description, self.fps, plan)

    @property
    def num_frames(self) -> int:
        """Approximate number of frames of the data set."""
        return sum(self.lengths.values())

    def run(self, progress: Callable[[int], None], command: str | None = None) -> dict:
        """Import all recordings. The data set appears at `config.out` when it is complete.

        Args:
            progress: called with the number of frames newly imported; first those of an earlier, interrupted run.
            command: the command line that the user gave, which metadata.json stores under "command".

        Returns:
            The content of metadata.json.
        """
        metadata = self._initial_metadata(command)
        partial = begin_partial(self.config.out, self.config.overwrite, metadata, key="import")
        stamps = {
            source.name: file_stamp(source, find_action_file(source, self.config.actions), caption_file(source))
            for source in self.sources
        }
        journal = _read_journal(partial)
        entries = {name: entry for name, entry in journal.items() if entry.get("stamp") == stamps.get(name)}
        for entry in entries.values():
            progress(entry["frames"])
        todo = [source for source in self.sources if source.name not in entries]
        for source, entry, error in self._import_sources(todo, partial, progress):
            if entry is None:
                self.skipped[source.name] = error
                self.report_skipped(printable(f"skipped {source.path}: {error}"))
            else:
                entries[source.name] = entry
                note = {"name": source.name, "stamp": stamps[source.name], **entry}
                with (partial / JOURNAL_FILE).open("a") as file:
                    file.write(json.dumps(note) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
        if not entries:
            first = next(self.skipped[source.name] for source in todo)
            raise ValueError(f"no recording in {self.config.videos} could be imported; the first: {first}")
        # The order of sources, whichever was imported first, so that the data set is always the same.
        entries, self.skipped = self._in_source_order(entries), self._in_source_order(self.skipped)
        _ensure_validation_split(partial, entries)
        metadata["splits"] = _count_splits(entries)
        metadata["recordings"] = {name: {"splits": entry["splits"]} for name, entry in entries.items()}
        metadata["skipped"] = {printable(name): error for name, error in self.skipped.items()}
        finish_partial(partial, self.config.out, metadata, self.config.overwrite)
        (self.config.out / JOURNAL_FILE).unlink(missing_ok=True)
        return metadata

    def _initial_metadata(self, command: str | None) -> dict:
        config, space = self.config, self.description.space
        environment = printable(config.environment or config.videos.resolve().name)[:MAX_NAME_CHARS]
        width, height = parse_size(config.size)
        metadata = Game(environment, (), (height, width, 3), self.fps, space, config.caption)
        settings = {name: getattr(config, name) for name in ("size", "fit", "actions", "source_fps", "min_frames")}
        settings |= {
            "videos": str(config.videos),
            "fps": self.fps,
            "sources": [printable(each.name) for each in self.sources],
        }
        settings |= {"ignored": self.description.ignored, "recorded": self.description.recorded}
        settings |= {"thresholds": self.description.thresholds, "positions": self.description.positions}
        command_entry = {"command": command} if command else {}
        return {**metadata.to_dict(), "import": settings | space.to_dict(), **command_entry}

    def _in_source_order(self, by_name: dict) -> dict:
        return {source.name: by_name[source.name] for source in self.sources if source.name in by_name}

    def _import_sources(
        self, sources: list[Source], partial: Path, progress: Callable[[int], None]
    ) -> Iterator[tuple[Source, dict | None, str]]:
        """Import recordings, in several processes if there is enough to do.

        Yields:
            Each recording when it is done, with its entry for the journal, or None and the error.
        """
        num_frames = sum(self.lengths.get(source.name, 0) for source in sources)
        num_workers = min(self.config.workers, len(sources), num_frames // self._min_frames_per_worker)
        if num_workers <= 1:
            for source in sources:
                yield source, *self._recording_importer.try_import(source, partial, progress)
            return
        frames_done, stop = SPAWN.SimpleQueue(), SPAWN.Event()
        with worker_pool(num_workers, _init_worker, self._recording_importer, partial, frames_done, stop) as pool:
            pending = {pool.submit(_import_in_worker, source): source for source in sources}
            try:
                while pending:
                    finished = wait(pending, PROGRESS_SECS, FIRST_COMPLETED).done
                    while not frames_done.empty():
                        progress(frames_done.get())
                    for future in finished:
                        yield pending.pop(future), *future.result()
            finally:
                stop.set()


class RecordingImporter:
    """Imports recordings one by one: decodes, resizes and resamples them. It can be sent to worker processes.

    Args:
        config: the settings.
        description: of the recorded actions.
        fps: frames per second of the data set.
        plan: recording -> split, or None to divide it; from `plan_splits`.
    """

    def __init__(self, config: ImportVideoConfig, description: Description, fps: float, plan: dict[str, str | None]):
        self.config, self.description, self.fps, self.plan = config, description, fps, plan
        self._resize = Resizer(*parse_size(config.size), config.fit)

    def try_import(self, source: Source, partial: Path, progress: Callable[[int], None]) -> tuple[dict | None, str]:
        """Import a recording: the entry of `import_recording` and "", or None and what is wrong with it."""
        try:
            return self.import_recording(source, partial, progress), ""
        except ValueError as error:
            _remove_shards(partial, source.name)
            return None, str(error)

    def import_recording(self, source: Source, partial: Path, progress: Callable[[int], None]) -> dict:
        """Write the shards of a recording into the partial data set.

        Args:
            progress: called with the number of frames newly written.

        Returns:
            The entry for the journal: {"frames": int, "splits": {split: {"records": int, "frames": int}}}.
        """
        try:
            source.name.encode()
        except UnicodeEncodeError:  # one that holds surrogates, which stand for other bytes
            raise ValueError("its name is not UTF-8: rename it") from None
        _remove_shards(partial, source.name)  # of an import that was killed
        times = frame_times(source, self.config.source_fps)
        shown = pictures_at_ticks(times, self.fps)
        actions = load_actions(source, self.config.actions, self.description, times, len(shown), self.fps)
        options = {
            "shard_name": _shard_name(source.name),
            "min_frames": self.config.min_frames,
            "caption": _read_caption(caption_file(source)),
        }
        splits = {}
        frames = self._frames(source, shown, times)
        # In chunks, as passing frames between threads one by one is slow.
        with closing(prefetch(iter(lambda: list(islice(frames, FRAMES_PER_CHUNK)), []))) as chunks:
            decoded = chain.from_iterable(chunks)
            for split, start, end in _split_ranges(self.plan[source.name], len(shown)):
                with EpisodeWriter(partial, self.description.space, self.fps, split, **options) as writer:
                    for tick in range(start, end):
                        writer.add(next(decoded), actions[tick])
                        if (tick + 1) % MAX_RECORD_FRAMES == 0:
                            progress(MAX_RECORD_FRAMES)
                if writer.num_records:
                    splits[split] = {"records": writer.num_records, "frames": writer.num_frames}
            for _ in decoded:  # decode to the end, where damage shows
                pass
        if not splits:
            raise ValueError(f"it has only {len(shown)} frames, fewer than min_frames {self.config.min_frames}")
        progress(len(shown) % MAX_RECORD_FRAMES)
        return {"frames": len(shown), "splits": splits}

    def _frames(self, source: Source, shown: np.ndarray, times: np.ndarray) -> Iterator[np.ndarray]:
        """The frame of each tick, uint8 (H, W, 3). Pictures that no tick shows are decoded but not resized.

        Args:
            shown: (T,) number of the picture that each tick shows.
            times: (K,) of the pictures, from `frame_times`.
        """
        tick = num_decoded = 0
        frame = None
        for number, picture in decode_pictures(source, times):
            num_decoded += 1
            first, end = np.searchsorted(shown, (number, number + 1)).tolist()  # of the ticks that show the picture
            if frame is not None and tick < first:  # repeat a frame for lost pictures
                yield from repeat(frame, first - tick)
                tick = first
            if tick < end:
                frame = self._resize(picture)
                yield from repeat(frame, end - tick)
                tick = end
        if not num_decoded or abs(len(times) - num_decoded) > max(2, 0.01 * len(times)):
            raise ValueError(f"only {num_decoded} of its {len(times)} pictures can be decoded")
        yield from repeat(frame, len(shown) - tick)  # some decoders drop the last pictures


# In a worker process: a RecordingImporter, the partial folder, a queue of frames done, and an event that stops it.
_worker: tuple = ()


def _init_worker(*shared) -> None:
    global _worker
    _worker = shared


def _import_in_worker(source: Source) -> tuple[dict | None, str]:
    recording_importer, partial, frames_done, stop = _worker

    def progress(num_frames: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        frames_done.put(num_frames)

    return recording_importer.try_import(source, partial, progress)


def plan_splits(names: list[str]) -> dict[str, str | None]:
    """The split of each recording, by name. None: the recording is divided between all splits.

    If recordings are in folders named as in SPLIT_FOLDERS, these are their splits. Otherwise whole recordings are held
    out, chosen by a hash of their names. If there are too few for that, each recording is divided.
    """
    folders = {name: Path(name.lower()).parts[:-1] for name in names}
    common = {parts[:1] for parts in folders.values()}
    if len(common) == 1 and not SPLIT_FOLDERS.keys() & set(*common):  # one folder holds all, as an archive unpacks
        folders = {name: parts[1:] for name, parts in folders.items()}
    top_folders = {name: parts[0] for name, parts in folders.items() if parts}
    if SPLIT_FOLDERS.keys() & top_folders.values():
        return {name: SPLIT_FOLDERS.get(top_folders.get(name, ""), "train") for name in names}
    if len(names) < MIN_RECORDINGS_TO_HOLD_OUT:
        return dict.fromkeys(names)
    num_held_out = max(1, round(HELD_OUT_FRACTION * len(names)))
    shuffled = sorted(names, key=lambda name: (zlib.crc32(_name_bytes(name)), name))
    return {name: SPLITS[1 + i // num_held_out] if i < 2 * num_held_out else "train" for i, name in enumerate(shuffled)}


def _split_ranges(split: str | None, num_frames: int) -> list[tuple[str, int, int]]:
    """Parts of a recording: split, first frame, and the frame after the last. None: it is divided."""
    if split:
        return [(split, 0, num_frames)]
    held_out = int(min(max(HELD_OUT_FRACTION * num_frames, MAX_RECORD_FRAMES), MAX_HELD_OUT_FRACTION * num_frames))
    val, test = num_frames - 2 * held_out, num_frames - held_out
    return [("train", 0, val), ("val", val, test), ("test", test, num_frames)]


def _count_splits(entries: dict[str, dict]) -> dict[str, dict[str, int]]:
    """Records and frames of each split, summed over recordings."""
    counts = {}
    for split in SPLITS:
        parts = [entry["splits"][split] for entry in entries.values() if split in entry["splits"]]
        if parts:
            counts[split] = {kind: sum(part[kind] for part in parts) for kind in ("records", "frames")}
    return counts


def _ensure_validation_split(partial: Path, entries: dict[str, dict]) -> None:
    """If no recording is held out, move the shards of the last training recording to val, if there are two or more.

    Args:
        entries: of the journal, by recording; updated.
    """
    train = [name for name, entry in entries.items() if [*entry["splits"]] == ["train"]]
    if any("val" in entry["splits"] for entry in entries.values()) or len(train) < 2:
        return
    (partial / "val").mkdir(exist_ok=True)
    for path in (partial / "train").glob(f"{_shard_name(train[-1])}_*{SUFFIX}"):
        path.rename(partial / "val" / path.name)
    entries[train[-1]]["splits"] = {"val": entries[train[-1]]["splits"]["train"]}


def _shard_name(recording: str) -> str:
    """File name of a recording's shards before their number: valid on every file system, unique by a hash."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", recording)[-40:].strip("-")
    return f"{plain}-{zlib.crc32(_name_bytes(recording)):08x}"


def _name_bytes(recording: str) -> bytes:
    """The name as the file system has it, in UTF-8 or not."""
    return recording.encode(errors="surrogateescape")


def _remove_shards(partial: Path, recording: str) -> None:
    for path in partial.glob(f"*/{_shard_name(recording)}_*"):  # temporary files included
        path.unlink()


def _read_journal(partial: Path) -> dict[str, dict]:
    """The entries of complete recordings by name. Ignores a line that was cut off when the import was killed."""
    entries, path = {}, partial / JOURNAL_FILE
    for line in path.read_text().splitlines() if path.is_file() else ():
        with suppress(ValueError):
            entry = json.loads(line)
            entries[entry.pop("name")] = entry
    return entries


def _read_caption(path: Path | None) -> str:
    """The caption in a text file, with spaces in place of line breaks; "" if there is none."""
    if path is None:
        return ""
    with path.open("rb") as file:
        content = file.read(4 * MAX_CAPTION_CHARS + 1)
    try:
        return check_caption(" ".join(content.decode("utf-8-sig").split()))
    except ValueError as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{path.name}: {reason} (at most {MAX_CAPTION_CHARS} characters)") from None
