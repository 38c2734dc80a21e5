"""Play, frame by frame -> records -> shards: what every collector writes through, this project's own and yours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.actions import ActionSpace
from data.dataset_folder import _write_metadata
from data.metadata import METADATA_FILE, Metadata, read_metadata
from data.records import Record, encode_record
from data.shards import QUICK, RECORDS_A_SHARD, SUFFIX, ShardWriter

MAX_FRAMES = 160  # of a record; longer episodes are cut


class Episode:
    """The frames of an episode since its last cut, and the actions since its start."""

    def __init__(self, prefix: list | None = None):
        self.prefix = prefix or []
        self.frames, self.actions, self.rewards = [], [], []

    def __len__(self) -> int:
        """Frames since the last cut."""
        return len(self.frames)

    def add(self, frame: np.ndarray, action: int | np.ndarray, reward: float | None = None) -> None:
        """A frame, the recorded action taken on seeing it, and the reward that followed."""
        self.frames.append(frame)
        self.actions.append(action)
        self.rewards.append(reward)

    def record(self, terminal: bool | None = None, level_seed: int | None = None) -> Record:
        """What there is since the last cut."""
        actions = np.asarray(self.actions)
        rewarded = all(reward is not None for reward in self.rewards)
        return Record(
            frames=np.stack(self.frames),
            actions=actions,
            rewards=np.array(self.rewards, np.float32) if rewarded else None,
            terminal=terminal,
            level_seed=level_seed,
            start_step=len(self.prefix),
            prefix_actions=np.asarray(self.prefix, actions.dtype).reshape(-1, *actions.shape[1:]),
        )

    def rest(self) -> Episode:
        """What goes on after a cut."""
        return Episode(self.prefix + self.actions)


class EpisodeWriter:
    """Writes the episodes of your own collector into one split of a data set.

        with EpisodeWriter("datasets/mygame", ActionSpace(...), fps=15) as writer:
            for frame, action, reward in play():   # uint8 (H, W, 3); an id, or a vector; a number
                writer.add(frame, action, reward)  # the action is taken on seeing the frame
            writer.end_episode(terminal=True)

    Long episodes are cut into records. A shard stands under its name only once it is whole, so a writer that is killed
    loses its last shard at most; one that is left by an error keeps every record that was finished. A writer on a
    folder that holds shards already goes on with the next one.

    Args:
        folder: of the data set; its metadata.json is made with the first frame.
        actions: what the game's actions are.
        fps: frames a second of the game.
        split: "train", "val" or "test". A run needs the first two.
        environment: the game's name.
        shard_name: what the shards are called, before their number.
        min_frames: an episode's tail shorter than this is left out.

    Raises:
        ValueError: the folder holds a data set of another frame size, rate or action space.
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
    ):
        self.folder, self.actions, self.fps, self.environment = Path(folder), actions, fps, environment
        self.shard_name, self.min_frames = shard_name, min_frames
        self.num_records = self.num_frames = 0  # written by this object
        self.shards: list[Path] = []  # likewise
        self._split_folder = self.folder / split
        self._shape: tuple[int, ...] | None = None  # of every frame
        self._episode = Episode()
        self._shard: ShardWriter | None = None
        self._records_in_shard = 0

    def __enter__(self) -> EpisodeWriter:
        """The writer itself."""
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Finishes the shard; after an error without the episode under way, which may be half of one."""
        try:
            if kind is None:
                self.end_episode()
            else:
                self._cut()
        finally:
            self._finish_shard()

    def add(self, frame: np.ndarray, action: int | np.ndarray, reward: float | None = None) -> None:
        """One step of play.

        Args:
            frame: uint8 (H, W, 3); it is copied.
            action: taken on seeing the frame: an id, or a vector (number of names,) of buttons and axes.
            reward: that followed; give it at every step or at none.

        Raises:
            ValueError: a frame or an action that is none of this data set.
        """
        frame = np.array(frame)
        if self._shape is None:
            self._begin(frame)
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise ValueError(f"a frame is {frame.dtype} {frame.shape}: expected uint8 {self._shape}")
        action = self._checked(action)
        self._cut()  # only now is it known that the episode goes on
        self._episode.add(frame, action, reward)

    def end_episode(self, terminal: bool | None = None) -> None:
        """The next frame belongs to another episode.

        Args:
            terminal: whether the game ended with the last action, rather than the recording; None: nobody knows.
        """
        if len(self._episode) >= max(1, self.min_frames):
            self._write(self._episode.record(terminal))
        self._episode = Episode()

    def _cut(self) -> None:
        if len(self._episode) == MAX_FRAMES:
            self._write(self._episode.record(terminal=False))
            self._episode = Episode()  # without a level, it cannot be replayed: no prefix is kept

    def _begin(self, frame: np.ndarray) -> None:
        """With the first frame: its size, and metadata.json."""
        if frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is of shape {frame.shape}: expected (height, width, 3)")
        metadata = Metadata(self.environment, (), frame.shape, float(self.fps), self.actions)
        if (self.folder / METADATA_FILE).is_file():
            there = read_metadata(self.folder)
            for name in ("frame_shape", "fps", "actions"):
                if getattr(there, name) != getattr(metadata, name):
                    raise ValueError(f"{self.folder} is a data set of other {name}: choose another folder")
        else:
            _write_metadata(self.folder, metadata.to_dict())
        self._shape = frame.shape

    def _checked(self, action: int | np.ndarray) -> int | np.ndarray:
        action, space = np.array(action), self.actions
        if not space.discrete:
            if action.shape != (len(space.names),) or not np.isfinite(action).all():
                raise ValueError(f"an action is {action}: expected {len(space.names)} finite numbers")
            return action.astype(np.float32)
        if action.shape or action.dtype.kind not in "iu" or not 0 <= action < len(space.names):
            raise ValueError(f"an action is {action}: expected a whole number from 0 to {len(space.names) - 1}")
        return int(action)

    def _write(self, record: Record) -> None:
        if self._shard is None:
            self._split_folder.mkdir(exist_ok=True)
            self._shard = ShardWriter(self._free_path(), QUICK)
        self._shard.write(encode_record(record))
        self.num_records, self.num_frames = self.num_records + 1, self.num_frames + len(record)
        self._records_in_shard += 1
        if self._records_in_shard == RECORDS_A_SHARD:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._shard:
            shard, self._shard, self._records_in_shard = self._shard, None, 0
            shard.close()
            self.shards.append(shard.path)

    def _free_path(self) -> Path:
        """The first number after those that are there."""
        prefix = f"{self.shard_name}_"
        names = [path.name[len(prefix) : -len(SUFFIX)] for path in self._split_folder.glob(f"*{SUFFIX}")
                 if path.name.startswith(prefix)]  # fmt: skip
        number = 1 + max((int(name) for name in names if name.isdigit()), default=-1)
        return self._split_folder / f"{prefix}{number:04d}{SUFFIX}"
