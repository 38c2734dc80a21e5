"""Import recordings of any game: videos, folders of pictures or arrays, and the actions beside them.

python -m scripts.import_video --videos recordings --out datasets/mygame --size 96x64 --fps 15
python -m scripts.import_video --videos recordings --out datasets/mygame --actions none

docs/your_own_game.md explains how to describe the actions.
"""

import time

from tqdm import tqdm

from dreamrun import cli
from dreamrun.data.alignment import check_alignment
from dreamrun.data.importing.importer import Importer, ImportVideoConfig
from dreamrun.data.index import split_shards
from dreamrun.data.metadata import read_metadata
from dreamrun.data.shards import ShardReader

MAX_CHECKED_RECORDS = 100  # for the alignment of actions and frames


def main(config: ImportVideoConfig) -> None:
    """Import with a progress bar, print a summary and check that actions are aligned with frames."""
    importer = Importer(config, tqdm.write)
    start = time.perf_counter()
    with tqdm(total=importer.num_frames, unit=" frames", unit_scale=True, desc=f"importing {config.videos}") as bar:
        try:
            metadata = importer.run(bar.update, cli.command_line("import"))
        except KeyboardInterrupt:
            bar.close()
            print("interrupted: the same command continues")
            raise
        bar.total = bar.n
    seconds = time.perf_counter() - start
    for split, counts in metadata["splits"].items():
        print(f"{split:>5}: {counts['records']} records, {counts['frames']} frames")
    num_frames = sum(counts["frames"] for counts in metadata["splits"].values())
    num_recordings, num_skipped = len(metadata["recordings"]), len(metadata["skipped"])
    print(f"{config.out}: {num_recordings} recordings, {num_skipped} skipped; {num_frames / seconds:,.0f} frames/s")
    if "val" not in metadata["splits"]:
        print("there is no val split: training needs more or longer recordings")
    if "train" in metadata["splits"]:
        print_alignment(config)


def print_alignment(config: ImportVideoConfig) -> None:
    """Check on some training records that actions are aligned with frames."""
    metadata = read_metadata(config.out)
    if metadata.actions.unconditional:
        print("no actions: a network trained on this data cannot be controlled")
        return
    paths = split_shards(config.out, "train")
    reader = ShardReader(paths, metadata)
    places = [(shard, number) for shard in range(len(paths)) for number in range(reader.num_records(shard))]
    records = (reader.read(*place) for place in places[:: -(-len(places) // MAX_CHECKED_RECORDS)])
    alignment = check_alignment(records, metadata.actions)
    print(f"actions and frames ({alignment.control}): {alignment.verdict}")


if __name__ == "__main__":
    cli.run(main, __doc__)
