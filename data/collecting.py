"""Collect episodes of a game into a data set.

A shard is the unit of work. Its content depends on (seed, split, shard number) alone, so any number of workers writes
the same files, and an interrupted collection continues with the shards that are missing.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from dreamrun.data.dataset_folder import begin_partial, finish_partial
from dreamrun.data.episode_writer import MAX_RECORD_FRAMES, Episode
from dreamrun.data.records import Record, encode_record
from dreamrun.data.shards import RECORDS_PER_SHARD, SUFFIX, ShardReader, write_shard
from dreamrun.data.workers import worker_pool
from dreamrun.games.base import SPLIT_LEVELS, GameVectorEnv
from dreamrun.games.factory import describe_environment, make_environment, max_collected
from dreamrun.games.game import Game
from dreamrun.games.policies import Policy, make_policy
from dreamrun.games.ranges import Count, Positive, Range, Seed, check_ranges

NUM_ENVS = 16  # most games per shard; what they have played is lost when the shard is full
MAX_SHORT_EPISODES = 1000  # too short episodes in a row after which collection stops with an error


@dataclass(frozen=True)
class CollectConfig:
    """What to collect."""

    env: str = "coinrun"  # pong, one of Procgen's sixteen games, gym:ID (Gymnasium), ale:GAME (Atari), doom:SCENARIO
    out: Path = Path("datasets/coinrun")  # the data set folder; must be empty or not exist yet
    records: Count = 600  # training records of up to 160 frames
    val_records: Count = 30
    test_records: Count = 30
    # explore: hold random actions for a while; uniform: a random action at every step; or module:function, a function
    # of your own: (environment, frames (N, H, W, 3), random generator) -> N actions.
    policy: str = "explore"
    seed: Seed = 0  # of the levels and the actions: the same seed gives the same data set
    distribution_mode: Literal["easy", "hard"] = "easy"  # Procgen's levels
    simple: bool = False  # Procgen without backgrounds, monochrome, one theme: easier to learn
    size: str | None = None  # width x height of a frame, such as 96x64 (not Procgen); None: 64x64, 64x48 for Doom
    # Steps for which an action is held (gym:, ale: and doom:); None: 4 for Atari, 2 for Doom, else 1.
    frame_skip: Positive | None = None
    mouse: bool = False  # Doom: buttons held together and a mouse axis that turns, in place of single actions
    min_frames: Annotated[int, Range(1, MAX_RECORD_FRAMES)] = 32  # a shorter end of an episode is dropped
    workers: Positive = field(default_factory=lambda: len(os.sched_getaffinity(0)))  # processes
    overwrite: bool = False  # replace the folder, if it is a data set and holds nothing else

    def __post_init__(self):
        check_ranges(self)
        if self.records + self.val_records + self.test_records == 0:
            raise ValueError("nothing to collect: records, val_records and test_records are 0")
        make_policy(self.policy)

    @property
    def game_options(self) -> dict[str, Any]:
        """Options that are not at their defaults: those that a game does not have must be left alone."""
        names = ("distribution_mode", "simple", "frame_skip", "size", "mouse")
        return {name: value for name in names if (value := getattr(self, name)) != getattr(CollectConfig, name)}

    def describe_game(self) -> Game:
        """What is collected."""
        return describe_environment(self.env, self.game_options, import_modules=True)


@dataclass(frozen=True)
class ShardJob:
    """One shard to collect."""

    split: str
    number: int
    num_records: int

    @property
    def file_name(self) -> str:
        """Name of the shard in the folder of its split."""
        return f"data_{self.number:04d}{SUFFIX}"


def collect(config: CollectConfig, progress: Callable[[int], None], command: str | None = None) -> dict:
    """Collect a data set, and return its metadata. It grows in `OUT.partial` and appears at `config.out` when complete.

    After an interruption a call with the same settings continues with the shards that are missing.

    Args:
        progress: called with the number of frames of each shard that is complete.
        command: the command line that the user gave, which metadata.json stores under "command".
    """
    metadata = _collection_metadata(config, command)  # raises before anything is written
    partial = begin_partial(config.out, config.overwrite, metadata, key="collect")
    metadata["splits"] = _run_jobs(config, partial, progress)
    finish_partial(partial, config.out, metadata, config.overwrite)
    return metadata


def _collection_metadata(config: CollectConfig, command: str | None) -> dict:
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "workers", "overwrite")}
    levels = {split: {"first": first, "count": count} for split, (first, count) in SPLIT_LEVELS.items()}
    return {
        **config.describe_game().to_dict(),
        "policy": config.policy,
        "seed": config.seed,
        "levels": levels,
        "collect": settings,
        **({"command": command} if command else {}),
    }


def _run_jobs(config: CollectConfig, partial: Path, progress: Callable[[int], None]) -> dict:
    """Collect all shards; the number of records and frames of each split."""
    split_records = {"train": config.records, "val": config.val_records, "test": config.test_records}
    jobs = [
        ShardJob(split, number, min(RECORDS_PER_SHARD, num_records - number * RECORDS_PER_SHARD))
        for split, num_records in split_records.items()
        for number in range(-(-num_records // RECORDS_PER_SHARD))
    ]
    counts = {
        split: {"records": num_records, "frames": 0} for split, num_records in split_records.items() if num_records
    }
    for split in counts:
        (partial / split).mkdir(exist_ok=True)
    with worker_pool(config.workers) as pool:  # shards that were begun are completed, even after Ctrl-C
        pending = {pool.submit(collect_shard, config, job, partial / job.split): job for job in jobs}
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                num_frames = future.result()
                counts[pending.pop(future).split]["frames"] += num_frames
                progress(num_frames)
    return counts


def collect_shard(config: CollectConfig, job: ShardJob, folder: Path) -> int:
    """Play until a shard is full and write it, unless it exists; returns its number of frames."""
    path = folder / job.file_name
    if path.is_file():
        reader = ShardReader([path], config.describe_game())  # of an interrupted collection
        return sum(len(reader.read(0, number)) for number in range(reader.num_records(0)))
    split_number = list(SPLIT_LEVELS).index(job.split)
    rng = np.random.default_rng((config.seed, split_number, job.number))
    levels, game_seed = SPLIT_LEVELS[job.split], int(rng.integers(2**31))
    num_frames = 0

    def count_and_encode(records: Iterable[Record]) -> Iterator[bytes]:
        nonlocal num_frames
        for record in records:
            num_frames += len(record)
            yield encode_record(record)

    num_envs = min(NUM_ENVS, max_collected(config.env))
    environment = make_environment(config.env, num_envs, levels, game_seed, config.game_options, import_modules=True)
    with closing(environment):
        policy = make_policy(config.policy)(environment, rng)
        records = islice(play(environment, policy, config.min_frames), job.num_records)
        write_shard(path, count_and_encode(records))
    return num_frames


def play(environment: GameVectorEnv, policy: Policy, min_frames: int = 32) -> Iterator[Record]:
    """Play forever and yield each `Record` when it is complete.

    A record is at most MAX_RECORD_FRAMES of one episode. Longer ones are split, and the end of an episode is dropped
    if it is shorter than `min_frames`.
    """
    num_short = 0  # short episodes in a row
    episodes = [Episode() for _ in range(environment.num_envs)]
    frames, info = environment.reset()
    while True:
        actions = policy(frames)
        next_frames, rewards, terminations, truncations, next_info = environment.step(actions)
        for game, episode in enumerate(episodes):
            episode.add(frames[game], actions[game], float(rewards[game]))
            ended = bool(terminations[game] or truncations[game])
            if ended or len(episode) == MAX_RECORD_FRAMES:
                if len(episode) < min_frames:
                    num_short += 1
                    if num_short == MAX_SHORT_EPISODES:
                        raise ValueError(f"{num_short} episodes in a row are shorter than min_frames {min_frames}")
                else:
                    num_short = 0
                    yield episode.record(bool(terminations[game]), int(info["level_seed"][game]))
                episodes[game] = Episode() if ended else episode.next_part()
        frames, info = next_frames, next_info
