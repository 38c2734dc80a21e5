"""Inspect a data set: counts, checks, and an mp4 of episodes with the keys pressed.

python -m scripts.visualize_dataset --data datasets/coinrun --check
python -m scripts.visualize_dataset --data datasets/coinrun --num-episodes 3 --output preview.mp4
python -m scripts.visualize_dataset --shard datasets/coinrun/train/data_0000.array_record --output preview.mp4
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from dreamrun import cli
from dreamrun.data.alignment import check_alignment
from dreamrun.data.atomic import check_output
from dreamrun.data.index import SPLITS, SplitIndex, index_split, warn_of_bad_records
from dreamrun.data.metadata import METADATA_FILE, PUBLIC_SET, read_metadata
from dreamrun.data.records import Record
from dreamrun.data.shards import ShardReader
from dreamrun.data.video import with_keys, write_mp4
from dreamrun.games.game import Game
from dreamrun.games.ranges import Positive, Seed, check_ranges
from dreamrun.games.untrusted import printable

MAX_BAR = 40  # characters of a histogram's longest bar
SHOWN_LAGS = 5  # of actions to motion, before and after 0 and the best one


@dataclass(frozen=True)
class VisualizeConfig:
    """What to inspect."""

    data: Path | None = None  # data set folder
    shard: Path | None = None  # or one ArrayRecord file
    split: str = "train"
    check: bool = False  # print counts, histograms, bad records, and whether actions are aligned with frames
    num_episodes: Positive = 3  # in the mp4
    seed: Seed = 0  # seed of the choice of episodes
    output: Path | None = None  # an mp4 of episodes, one after another

    def __post_init__(self):
        if (self.data is None) == (self.shard is None):
            raise ValueError("give either --data DIR or --shard FILE")
        if not self.check and self.output is None:
            raise ValueError("nothing to do: ask for --check, or for an mp4 with --output preview.mp4")
        check_ranges(self)


def main(config: VisualizeConfig) -> None:
    """Check the data set and write the video."""
    if config.output:
        check_output(config.output, suffix=".mp4", inputs=[config.shard])
    if config.shard:
        parent = config.shard.parent.parent
        metadata = read_metadata(parent) if (parent / METADATA_FILE).is_file() else PUBLIC_SET
        reader = ShardReader([config.shard], metadata)
        places = [(0, number) for number in range(reader.num_records(0))]
    else:
        metadata = read_metadata(config.data)
        index = index_split(config.data, config.split, metadata)
        warn_of_bad_records(index, f"{config.data}/{config.split}")
        reader = ShardReader(index.paths, metadata)
        places = list(zip(index.shards.tolist(), index.numbers.tolist(), strict=True))
        if not places:
            raise ValueError(f"{config.data}/{config.split} has no readable record")
    if config.check:
        if config.data:
            check_splits(config.data, metadata)
        check_records([reader.read(*place) for place in sample(places, 200, config.seed)], metadata)
    if config.output:
        records = [reader.read(*place) for place in sample(places, config.num_episodes, config.seed)]
        videos = [with_keys(r.frames, r.leading_actions(), metadata.actions) for r in records]
        write_mp4(config.output, np.concatenate(videos), metadata.fps, decorated=True)
        print(f"wrote {config.output}: {len(records)} records, {sum(map(len, records))} frames")


def sample(places: list, count: int, seed: int) -> list:
    """At most `count` random places."""
    chosen = np.random.default_rng(seed).permutation(len(places))[:count]
    return [places[i] for i in chosen]


def check_splits(folder: Path, metadata: Game) -> None:
    """Print counts, lengths and bad records of each split."""
    height, width, _ = metadata.frame_shape
    space = metadata.actions
    actions = f"{len(space.names)} {'actions' if space.discrete else 'buttons and axes'}"
    actions = "no actions" if space.unconditional else actions
    game = f"{metadata.environment}, {width}x{height} (width x height), {metadata.fps:g} frames/s, {actions}"
    print(f"{folder}: {game}")
    for split in SPLITS:
        if not (folder / split).is_dir():
            print(f"\n{split}: none")
            continue
        index: SplitIndex = index_split(folder, split, metadata)
        print(
            f"\n{split}: {len(index.paths)} shards, {len(index.lengths)} records, {int(index.lengths.sum())} frames, "
            f"{len(index.bad)} bad"
        )
        for bad in index.bad:
            print(f"  bad: {printable(bad.reason)}")
        if len(index.lengths):
            counts, edges = np.histogram(index.lengths, bins=8)
            histogram([f"{int(a)} to {int(b)} frames" for a, b in pairwise(edges)], counts)


def check_records(records: list[Record], metadata: Game) -> None:
    """Print how often each action is taken, and whether actions are aligned with frames."""
    actions = np.concatenate([record.actions for record in records])
    print(f"\nactions in {len(records)} records of {len(actions)} frames")
    histogram(list(metadata.actions.names), np.count_nonzero(metadata.actions.name_values(actions), axis=0))
    if metadata.actions.unconditional:
        return
    alignment = check_alignment(records, metadata.actions)
    print(f"\nactions and frames ({alignment.control}): 1000 x correlation by lag")
    shown = range(min(0, alignment.best_lag) - SHOWN_LAGS, max(0, alignment.best_lag) + SHOWN_LAGS + 1)
    correlations = [alignment.correlations.get(lag, 0.0) for lag in shown]
    histogram([f"{lag:+d}" for lag in shown], 1000 * np.array(correlations))
    print(alignment.verdict)


def histogram(labels: list[str], counts: np.ndarray) -> None:
    """Print a bar of characters for each count."""
    label_width = max(map(len, labels))
    for label, count in zip(labels, counts, strict=True):
        bar = "#" * round(MAX_BAR * count / max(1, counts.max()))
        print(f"  {label:>{label_width}} {count:8.0f} {bar}")


if __name__ == "__main__":
    cli.run(main, __doc__)
