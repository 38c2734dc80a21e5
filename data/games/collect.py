"""Real play, split by split and shard by shard, into a data set folder.

A shard is the unit of work: what it holds follows from (seed, split, shard number) alone, so any number of workers
writes the same files, and an interrupted collection goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from data.dataset_folder import begin_partial, finish_partial
from data.episode_writer import MAX_FRAMES, Episode
from data.games.base import SPLIT_LEVELS, GameVectorEnv
from data.games.factory import describe_environment, make_environment
from data.games.policies import ExplorePolicy, FunctionPolicy, UniformPolicy, make_policy
from data.metadata import Metadata
from data.records import encode_record
from data.shards import RECORDS_A_SHARD, SUFFIX, ShardReader, write_shard
from data.workers import worker_pool

GAMES_AT_ONCE = 16  # few, so that little is played that no shard has room for
MOST_SHORT = 1000  # episodes in a row without a record, until it is told that all are too short


@dataclass(frozen=True)
class CollectConfig:
    """What to collect."""

    env: str = "coinrun"  # pong, one of Procgen's sixteen games, gym:ID (Gymnasium) or ale:GAME (Atari)
    out: Path = Path("datasets/coinrun")  # the data set folder; must be empty or not be there yet
    records: int = 600  # training records, of up to 160 frames each
    val_records: int = 30
    test_records: int = 30
    # explore: hold keys for a while and get on; uniform: press any at every step; or module:function, one of your own,
    # called with the environment, its frames (N, H, W, 3) and a random generator, that returns N actions.
    policy: str = "explore"
    seed: int = 0
    distribution_mode: Literal["easy", "hard"] = "easy"  # Procgen's levels
    simple: bool = False  # Procgen without backgrounds, monochrome, one theme: easier to learn
    size: str | None = None  # width x height of a frame, 96x64 say (gym: and ale:); 64x64 if it is not said
    frame_skip: int | None = None  # steps that an action is held for (gym: and ale:); 4 for Atari, else 1
    min_frames: int = 32  # an episode's tail shorter than this is left out
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))  # processes
    overwrite: bool = False  # replace what is in the folder

    def __post_init__(self):
        for name in ("records", "val_records", "test_records", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it cannot be negative")
        if self.records + self.val_records + self.test_records == 0:
            raise ValueError("nothing to collect: records, val_records and test_records are all 0")
        make_policy(self.policy)
        if self.frame_skip is not None and self.frame_skip < 1:
            raise ValueError(f"frame_skip is {self.frame_skip}: it must be at least 1")
        if not 1 <= self.min_frames <= MAX_FRAMES:
            raise ValueError(f"min_frames is {self.min_frames}: it must lie in 1 to {MAX_FRAMES}")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}: at least one process is needed")


@dataclass(frozen=True)
class ShardJob:
    """One shard to collect."""

    split: str
    number: int
    num_records: int

    @property
    def file_name(self) -> str:
        """Name of the shard below its split's folder."""
        return f"data_{self.number:04d}{SUFFIX}"


def collect(config: CollectConfig, progress: Callable[[int], None]) -> dict:
    """Collect a data set; everything appears under `config.out` at once, when all of it is done.

    Until then it grows in `OUT.partial`, from which the same command goes on after an interruption.

    Args:
        progress: called with the number of frames newly on disk.

    Returns:
        What metadata.json says.

    Raises:
        ValueError: bad settings, an unknown game, or a folder that is not empty.
    """
    metadata = _metadata(config)  # raises before anything is touched
    partial = begin_partial(config.out, config.overwrite, metadata, key="collect")
    metadata["splits"] = _run_jobs(config, partial, progress)
    finish_partial(partial, config.out, metadata)
    return metadata


def _described(config: CollectConfig) -> Metadata:
    return describe_environment(config.env, **_options(config))


def _options(config: CollectConfig) -> dict:
    return {name: getattr(config, name) for name in ("distribution_mode", "simple", "frame_skip", "size")}


def _metadata(config: CollectConfig) -> dict:
    made = {name: value for name, value in asdict(config).items() if name not in ("out", "workers", "overwrite")}
    levels = {split: {"first": first, "count": count} for split, (first, count) in SPLIT_LEVELS.items()}
    return {
        **_described(config).to_dict(),
        "policy": config.policy,
        "seed": config.seed,
        "levels": levels,
        "collect": made,
    }


def _run_jobs(config: CollectConfig, partial: Path, progress: Callable[[int], None]) -> dict:
    wanted = {"train": config.records, "val": config.val_records, "test": config.test_records}
    jobs = [
        ShardJob(split, number, min(RECORDS_A_SHARD, num_records - number * RECORDS_A_SHARD))
        for split, num_records in wanted.items()
        for number in range(-(-num_records // RECORDS_A_SHARD))
    ]
    counts = {split: {"records": num_records, "frames": 0} for split, num_records in wanted.items() if num_records}
    for split in counts:
        (partial / split).mkdir(exist_ok=True)
    with worker_pool(config.workers) as pool:  # shards under way are finished, whatever happens, and kept
        pending = {pool.submit(collect_shard, config, job, partial / job.split): job for job in jobs}
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                num_frames = future.result()
                counts[pending.pop(future).split]["frames"] += num_frames
                progress(num_frames)
    return counts


def _environment(config: CollectConfig, split: str, num_envs: int, seed: int) -> GameVectorEnv:
    return make_environment(config.env, num_envs, SPLIT_LEVELS[split], seed, **_options(config))


def collect_shard(config: CollectConfig, job: ShardJob, folder: Path) -> int:
    """Play until a shard is full and write it, unless it is there; returns its number of frames."""
    path = folder / job.file_name
    if path.is_file():
        return _count_frames(path, config)
    split_number = list(SPLIT_LEVELS).index(job.split)
    rng = np.random.default_rng((config.seed, split_number, job.number))
    environment = _environment(config, job.split, GAMES_AT_ONCE, int(rng.integers(2**31)))
    num_frames = 0

    def payloads():
        nonlocal num_frames
        records = play(environment, make_policy(config.policy)(environment, rng), config.min_frames)
        for _, record in zip(range(job.num_records), records, strict=False):
            num_frames += len(record)
            yield encode_record(record)

    write_shard(path, payloads())
    environment.close()
    return num_frames


def _count_frames(path: Path, config: CollectConfig) -> int:
    """Frames in a shard that an earlier, interrupted collection finished."""
    reader = ShardReader([path], _described(config))
    return sum(len(reader.read(0, number)) for number in range(reader.num_records(0)))


def play(environment: GameVectorEnv, policy: UniformPolicy | ExplorePolicy | FunctionPolicy, min_frames: int = 32):
    """Play for ever and yield a `Record` whenever one is complete.

    Records are at most MAX_FRAMES of one episode: long ones are cut, a tail shorter than `min_frames` is left out.

    Raises:
        ValueError: nothing but episodes that are shorter.
    """
    num_short = 0  # in a row
    episodes = [Episode() for _ in range(environment.num_envs)]
    frames, info = environment.reset()
    while True:
        actions = policy.act(environment, frames)
        next_frames, rewards, terminations, truncations, next_info = environment.step(actions)
        for game, episode in enumerate(episodes):
            episode.add(frames[game], actions[game], float(rewards[game]))
            ended = bool(terminations[game] or truncations[game])
            if ended or len(episode) == MAX_FRAMES:
                if len(episode) < min_frames:
                    num_short += 1
                    if num_short == MOST_SHORT:
                        raise ValueError(f"{num_short} episodes in a row are shorter than --min-frames {min_frames}")
                else:
                    num_short = 0
                    yield episode.record(bool(terminations[game]), int(info["level_seed"][game]))
                episodes[game] = Episode() if ended else episode.rest()
        frames, info = next_frames, next_info
