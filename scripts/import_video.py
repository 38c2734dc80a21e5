"""Import recordings of any game: videos, folders of pictures or arrays, and the actions beside them.

python -m scripts.import_video --videos recordings --out datasets/mygame --size 96x64 --fps 15
python -m scripts.import_video --videos recordings --out datasets/mygame --actions none

How the actions are described: docs/your_own_game.md.
"""

from __future__ import annotations

import time

from tqdm import tqdm

import cli
from data.alignment import check_alignment
from data.importing.importer import Importer, ImportVideoConfig
from data.index import split_shards
from data.metadata import read_metadata
from data.shards import ShardReader

CHECKED_RECORDS = 100


def main(config: ImportVideoConfig) -> None:
    """Import, with a progress bar; say what came of it, and whether actions stand beside the right frames."""
    importer = Importer(config, tqdm.write)
    start = time.perf_counter()
    with tqdm(total=importer.num_frames, unit=" frames", unit_scale=True, desc=f"importing {config.videos}") as bar:
        try:
            metadata = importer.run(bar.update)
        except KeyboardInterrupt:
            bar.close()
            print("interrupted: the same command goes on")
            raise
        bar.total = bar.n
    seconds = time.perf_counter() - start
    for split, counts in metadata["splits"].items():
        print(f"{split:>5}: {counts['records']} records, {counts['frames']} frames")
    num_frames = sum(counts["frames"] for counts in metadata["splits"].values())
    whole, left_out = len(metadata["recordings"]), len(metadata["skipped"])
    print(f"{config.out}: {whole} recordings, {left_out} skipped; {num_frames / seconds:,.0f} frames/s")
    if "val" not in metadata["splits"]:
        print("there is nothing to validate with: training needs more recordings, or longer ones")
    if "train" in metadata["splits"]:
        check(config)


def check(config: ImportVideoConfig) -> None:
    """Whether the actions lead where they should."""
    described = read_metadata(config.out)
    if described.actions.unconditional:
        print("no actions: a network trained on this goes on by itself")
        return
    paths = split_shards(config.out, "train")
    reader = ShardReader(paths, described)
    places = [(shard, number) for shard in range(len(paths)) for number in range(reader.num_records(shard))]
    records = (reader.read(*place) for place in places[:: -(-len(places) // CHECKED_RECORDS)])
    alignment = check_alignment(records, described.actions)
    print(f"actions and frames ({alignment.what}): {alignment.verdict}")


if __name__ == "__main__":
    cli.run(main, ImportVideoConfig, __doc__)
