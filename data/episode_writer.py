"""From frames of play to shards: the writer for collectors, the project's and your own."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamrun.data.atomic import write_json
from dreamrun.data.metadata import METADATA_FILE, read_metadata
from dreamrun.data.records import Record, encode_record
from dreamrun.data.shards import RECORDS_PER_SHARD, SUFFIX, ZSTD_FAST, shard_writer
from dreamrun.games.game import Game, check_caption, check_fps, check_frame_shape
from dreamrun.games.space import ActionSpace
from dreamrun.games.untrusted import check_name

MAX_RECORD_FRAMES = 160  # of a record; longer episodes are split


class Episode:
    """Collects the frames, actions and rewards of one record.

    Args:
        prefix_actions: those from the start of the episode to the record's first frame.
    """

    def __init__(self, prefix_actions: list | None = None):
        self.prefix_actions = prefix_actions or []
        self.frames, self.actions, self.rewards = [], [], []

    def __len__(self) -> int:
        """Number of frames so far."""
        return len(self.frames)

    def add(self, frame: np.ndarray, action: int | np.ndarray, reward: float | None = None) -> None:
        """Append a frame, the recorded action taken at it, and the reward that followed."""
        self.frames.append(frame)
        self.actions.append(action)
        self.rewards.append(reward)

    def record(self, terminal: bool | None = None, level_seed: int | None = None) -> Record:
        """The record of all frames so far."""
        actions = np.asarray(self.actions)
        rewarded = all(reward is not None for reward in self.rewards)
        return Record(
            frames=np.stack(self.frames),
            actions=actions,
            rewards=np.array(self.rewards, np.float32) if rewarded else None,
            terminal=terminal,
            level_seed=level_seed,
            start_step=len(self.prefix_actions),
            prefix_actions=np.asarray(self.prefix_actions, actions.dtype).reshape(-1, *actions.shape[1:]),
        )

    def next_part(self) -> Episode:
        """An empty part that continues the same episode."""
        return Episode(self.prefix_actions + self.actions)


class EpisodeWriter:
    """Writes the episodes of your own collector into one split of a data set.

        with EpisodeWriter("datasets/mygame", ActionSpace(...), fps=15) as writer:
            for frame, action, reward in play():   # uint8 (H, W, 3); an id, or a vector; a number
                writer.add(frame, action, reward)  # the action is taken at the frame
            writer.end_episode(terminal=True)

    Episodes longer than MAX_RECORD_FRAMES are split into several records. A shard appears under its name only when it
    is complete, so a writer that is killed loses its last shard at most. After an error all complete records are kept.
    If the folder already holds shards, the writer adds more.

    Args:
        folder: of the data set; metadata.json is written with the first frame.
        actions: the action space of the game.
        fps: frames per second of the game.
        split: "train", "val" or "test". Training needs the first two.
        environment: the game's name.
        caption: what is played, in words; each record keeps it.
        shard_name: file name of the shards before their number.
        min_frames: the end of an episode is dropped if it is shorter.

    Raises:
        ValueError: environment, fps or caption is invalid, or the folder holds a data set with another frame size,
            frame rate or action space.
    """

    def __init__(
        self,
        folder: Path | str,
        actions: ActionSpace,
        fps: float = 15.0,
        split: str = "train",
        environment: str = "",
        shard_name: str = "data",
        min_frames: int = 1,
        caption: str = "",
    ):
        check_name("environment", environment)
        self.folder, self.actions, self.fps, self.environment = Path(folder), actions, check_fps(fps), environment
        self.shard_name, self.min_frames, self.caption = shard_name, min_frames, check_caption(caption)
        self.num_records = self.num_frames = 0  # written by this object
        self._split_folder = self.folder / split
        self._shape: tuple[int, ...] | None = None  # of every frame
        self._episode = Episode()
        self._shard = ExitStack()  # completes the shard that is being written
        self._write_payload: Callable[[bytes], None] | None = None  # None: the next record begins a shard
        self._records_in_shard = 0
        self._closed = False

    def __enter__(self) -> EpisodeWriter:
        """The writer itself."""
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Complete the last shard; after an error without the current episode, which may be incomplete."""
        try:
            if kind is None:
                self.end_episode()
            else:
                self._write_if_full()
        finally:
            self._closed = True
            self._finish_shard()

    def add(self, frame: np.ndarray, action: int | np.ndarray, reward: float | None = None) -> None:
        """Append one step of play.

        Args:
            frame: uint8 (H, W, 3); it is copied.
            action: taken at the frame: an id, or a vector (names,) of buttons and axes.
            reward: that followed; give it at every step or at none.

        Raises:
            ValueError: the frame or the action does not fit the data set.
        """
        assert not self._closed, "the `with` block of this writer has ended: make another EpisodeWriter"
        frame = np.array(frame)
        if self._shape is None:
            self._begin(frame)
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise ValueError(f"the frame is {frame.dtype} {frame.shape}: expected uint8 {self._shape}")
        action = self._check_action(action)
        self._write_if_full()  # only now it is known that the episode continues
        self._episode.add(frame, action, reward)

    def end_episode(self, terminal: bool | None = None) -> None:
        """End the episode: the next frame belongs to another one.

        Args:
            terminal: whether the game ended with the last action; False: only the recording ended; None: unknown.
        """
        if len(self._episode) >= max(1, self.min_frames):
            self._write(self._episode.record(terminal))
        self._episode = Episode()

    def _write_if_full(self) -> None:
        if len(self._episode) == MAX_RECORD_FRAMES:
            self._write(self._episode.record(terminal=False))
            self._episode = Episode()  # no prefix: without a level the record cannot be replayed

    def _begin(self, frame: np.ndarray) -> None:
        """On the first frame: note its size and write or check metadata.json."""
        if frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"the frame has shape {frame.shape}: expected (height, width, 3)")
        check_frame_shape(frame.shape)
        metadata = Game(self.environment, (), frame.shape, float(self.fps), self.actions)
        if (self.folder / METADATA_FILE).is_file():
            existing = read_metadata(self.folder)
            for name in ("frame_shape", "fps", "actions"):
                if getattr(existing, name) != getattr(metadata, name):
                    raise ValueError(f"{self.folder} is a data set with other {name}: choose another folder")
        else:
            write_json(self.folder / METADATA_FILE, metadata.to_dict())
        self._shape = frame.shape

    def _check_action(self, action: int | np.ndarray) -> int | np.ndarray:
        """A copy of the action, as int or float32. Raises ValueError if it is not in the action space."""
        action, space = np.array(action), self.actions
        if not space.discrete:
            if action.shape != (len(space.names),) or not np.isfinite(action).all():
                raise ValueError(f"the action is {action}: expected {len(space.names)} finite numbers")
            return action.astype(np.float32)
        if action.shape or action.dtype.kind not in "iu" or not 0 <= action < len(space.names):
            raise ValueError(f"the action is {action}: expected an integer from 0 to {len(space.names) - 1}")
        return int(action)

    def _write(self, record: Record) -> None:
        if self._write_payload is None:
            self._split_folder.mkdir(exist_ok=True)
            self._write_payload = self._shard.enter_context(shard_writer(self._next_path(), ZSTD_FAST))
        self._write_payload(encode_record(replace(record, caption=self.caption)))
        self.num_records, self.num_frames = self.num_records + 1, self.num_frames + len(record)
        self._records_in_shard += 1
        if self._records_in_shard == RECORDS_PER_SHARD:
            self._finish_shard()

    def _finish_shard(self) -> None:
        self._write_payload, self._records_in_shard = None, 0
        self._shard.close()

    def _next_path(self) -> Path:
        """The shard path with the number after the largest that exists."""
        pattern = re.compile(rf"{re.escape(self.shard_name)}_(\d+){re.escape(SUFFIX)}")
        found = [pattern.fullmatch(path.name) for path in self._split_folder.iterdir()]
        number = 1 + max((int(match[1]) for match in found if match), default=-1)
        return self._split_folder / f"{self.shard_name}_{number:04d}{SUFFIX}"
