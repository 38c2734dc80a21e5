"""Import recordings of any game into a data set.

A recording is the unit of work: it has shards of its own, so several processes can import recordings in parallel, and
an interrupted import continues with the recordings that are missing. A recording that cannot be used is reported and
skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

from dreamrun.data.dataset_folder import JOURNAL_FILE, begin_partial, check_free, finish_partial
from dreamrun.data.importing.config import ImportVideoConfig
from dreamrun.data.importing.description import Description, read_description
from dreamrun.data.importing.journal import append_to_journal, read_journal
from dreamrun.data.importing.recorded_actions import find_action_file, has_actions
from dreamrun.data.importing.recording_shards import ensure_validation_split
from dreamrun.data.importing.single_recording import RecordingImporter
from dreamrun.data.importing.sources import Source, caption_file, estimate_frame_rate, file_stamp, find_sources
from dreamrun.data.importing.splits import SPLITS, plan_splits
from dreamrun.data.metadata import Metadata, parse_size
from dreamrun.data.workers import SPAWN, worker_pool
from dreamrun.games.printable import MAX_NAME_CHARS, printable
from dreamrun.games.space import UNCONDITIONAL

MAX_DEFAULT_FPS = 20.0  # maximum frame rate of the data set if the settings do not say one
PROGRESS_SECS = 0.2  # between updates of the progress of worker processes
MIN_FRAMES_PER_WORKER = 3000  # importing fewer takes no longer than starting a process


class Importer:
    """One import.

    Args:
        config: the settings.
        report_skipped: called with one line of text for each recording that is skipped.

    Raises:
        ValueError: the settings are invalid, or the folder holds nothing to import. Nothing is written then.
    """

    def __init__(self, config: ImportVideoConfig, report_skipped: Callable[[str], None]):
        self.config, self.report_skipped = config, report_skipped
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

        Raises:
            ValueError: no recording could be imported.
        """
        metadata = self._initial_metadata(command)
        partial = begin_partial(self.config.out, self.config.overwrite, metadata, key="import")
        stamps = {
            source.name: file_stamp(source, find_action_file(source, self.config.actions), caption_file(source))
            for source in self.sources
        }
        journal = read_journal(partial)
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
                append_to_journal(partial, source.name, {"stamp": stamps[source.name], **entry})
        if not entries:
            first = next(self.skipped[source.name] for source in todo)
            raise ValueError(f"no recording in {self.config.videos} could be imported; the first: {first}")
        # The order of sources, whichever was imported first, so that the data set is always the same.
        entries, self.skipped = self._in_source_order(entries), self._in_source_order(self.skipped)
        ensure_validation_split(partial, entries)
        metadata["splits"] = _count_splits(entries)
        metadata["recordings"] = {name: {"splits": entry["splits"]} for name, entry in entries.items()}
        metadata["skipped"] = self.skipped
        finish_partial(partial, self.config.out, metadata, self.config.overwrite)
        (self.config.out / JOURNAL_FILE).unlink(missing_ok=True)
        return metadata

    def _initial_metadata(self, command: str | None) -> dict:
        config, space = self.config, self.description.space
        environment = printable(config.environment or config.videos.resolve().name)[:MAX_NAME_CHARS]
        width, height = parse_size(config.size)
        metadata = Metadata(environment, (), (height, width, 3), self.fps, space, config.caption)
        settings = {name: getattr(config, name) for name in ("size", "fit", "actions", "source_fps", "min_frames")}
        settings |= {"videos": str(config.videos), "fps": self.fps, "sources": [source.name for source in self.sources]}
        settings |= {"ignored": self.description.ignored, "recorded": self.description.recorded}
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
        num_workers = min(self.config.workers, len(sources), num_frames // MIN_FRAMES_PER_WORKER)
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


def _count_splits(entries: dict[str, dict]) -> dict[str, dict[str, int]]:
    """Records and frames of each split, summed over recordings."""
    counts = {}
    for split in SPLITS:
        parts = [entry["splits"][split] for entry in entries.values() if split in entry["splits"]]
        if parts:
            counts[split] = {kind: sum(part[kind] for part in parts) for kind in ("records", "frames")}
    return counts


# In a worker process: a RecordingImporter, the partial folder, a queue of frames done, and an event that stops it.
_worker: tuple = ()


def _init_worker(*shared) -> None:
    global _worker
    _worker = shared


def _import_in_worker(source: Source) -> tuple[dict | None, str]:
    single_recording, partial, frames_done, stop = _worker

    def progress(num_frames: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        frames_done.put(num_frames)

    return single_recording.try_import(source, partial, progress)
