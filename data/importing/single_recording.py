"""Import a single recording: decode and resize its pictures, resample its actions, write its shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import numpy as np

from dreamrun.data.captions import MAX_CAPTION_CHARS, check_caption
from dreamrun.data.episode_writer import MAX_FRAMES, EpisodeWriter
from dreamrun.data.importing.config import ImportVideoConfig
from dreamrun.data.importing.description import Description
from dreamrun.data.importing.recorded_actions import load_actions
from dreamrun.data.importing.recording_shards import remove_shards, shard_name
from dreamrun.data.importing.resampling import pictures_at_ticks
from dreamrun.data.importing.resizing import Fitter
from dreamrun.data.importing.sources import Source, caption_file, decode_pictures, frame_times
from dreamrun.data.importing.splits import split_ranges
from dreamrun.data.metadata import parse_size
from dreamrun.data.prefetch import prefetch

FRAMES_PER_CHUNK = 32  # passed at a time from the thread that decodes to the one that compresses and writes


class RecordingImporter:
    """Imports recordings one by one. It can be sent to worker processes.

    Args:
        config: the settings.
        description: of the recorded actions.
        fps: frames per second of the data set.
        plan: recording -> split, or None to divide it; from `plan_splits`.
    """

    def __init__(self, config: ImportVideoConfig, description: Description, fps: float, plan: dict[str, str | None]):
        self.config, self.description, self.fps, self.plan = config, description, fps, plan
        self._fitter = Fitter(*parse_size(config.size), config.fit)

    def try_import(self, source: Source, partial: Path, progress: Callable[[int], None]) -> tuple[dict | None, str]:
        """Import a recording as `import_recording` does: its entry and "", or None and what is wrong with it."""
        try:
            return self.import_recording(source, partial, progress), ""
        except ValueError as error:
            remove_shards(partial, source.name)
            return None, str(error)

    def import_recording(self, source: Source, partial: Path, progress: Callable[[int], None]) -> dict:
        """Write the shards of a recording into the partial data set.

        Args:
            progress: called with the number of frames newly written.

        Returns:
            The entry for the journal: {"frames": int, "splits": {split: {"records": int, "frames": int}}}.

        Raises:
            ValueError: the recording cannot be used; the message says why.
        """
        remove_shards(partial, source.name)  # of an import that was killed
        times = frame_times(source, self.config.source_fps)
        shown = pictures_at_ticks(times, self.fps)
        actions = load_actions(source, self.config.actions, self.description, times, len(shown), self.fps)
        splits = {}
        with closing(prefetch(_chunks(self._frames(source, shown, times)))) as chunks:
            frames = chain.from_iterable(chunks)
            for split, start, end in split_ranges(self.plan[source.name], len(shown)):
                writer = self._make_writer(partial, split, source)
                with writer:
                    for tick in range(start, end):
                        writer.add(next(frames), actions[tick])
                        if (tick + 1) % MAX_FRAMES == 0:
                            progress(MAX_FRAMES)
                if writer.num_records:
                    splits[split] = {"records": writer.num_records, "frames": writer.num_frames}
            for _ in frames:  # decode to the end, where damage shows
                pass
        if not splits:
            raise ValueError(f"it has only {len(shown)} frames, fewer than min_frames {self.config.min_frames}")
        progress(len(shown) % MAX_FRAMES)
        return {"frames": len(shown), "splits": splits}

    def _make_writer(self, partial: Path, split: str, source: Source) -> EpisodeWriter:
        return EpisodeWriter(
            partial,
            self.description.space,
            self.fps,
            split,
            shard_name=shard_name(source.name),
            min_frames=self.config.min_frames,
            caption=read_caption(caption_file(source)),
        )

    def _frames(self, source: Source, shown: np.ndarray, times: np.ndarray) -> Iterator[np.ndarray]:
        """The frame of each tick, uint8 (H, W, 3). Pictures that no tick shows are decoded but not resized.

        Args:
            shown: (T,) number of the picture that each tick shows.
            times: (K,) of the pictures, from `frame_times`.
        """
        tick = num_decoded = 0
        frame = None
        for number, picture in decode_pictures(source, times):
            while frame is not None and tick < len(shown) and shown[tick] < number:  # repeat a frame for lost pictures
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
        for _ in range(tick, len(shown)):  # some decoders drop the last pictures
            yield frame


def read_caption(path: Path | None) -> str:
    """The caption in a text file, with spaces in place of line breaks; "" if there is none.

    Raises:
        ValueError: it is too long, or no text.
    """
    if path is None:
        return ""
    with path.open("rb") as file:
        content = file.read(4 * MAX_CAPTION_CHARS + 1)
    try:
        return check_caption(" ".join(content.decode("utf-8-sig").split()))
    except ValueError as error:
        reason = "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(f"{path.name}: {reason} (at most {MAX_CAPTION_CHARS} characters)") from None


def _chunks(frames: Iterator[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Lists of FRAMES_PER_CHUNK frames, as passing frames between threads one by one is slow."""
    while chunk := list(islice(frames, FRAMES_PER_CHUNK)):
        yield chunk
