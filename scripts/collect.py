"""Collect episodes of a game into a data set.

python -m scripts.collect --env coinrun --out datasets/coinrun --records 600
python -m scripts.collect --env pong --out datasets/pong --records 300
"""

import time

from tqdm import tqdm

from dreamrun import cli
from dreamrun.data.collecting import CollectConfig, collect
from dreamrun.data.episode_writer import MAX_RECORD_FRAMES


def main(config: CollectConfig) -> None:
    """Collect with a progress bar and print a summary."""
    max_frames = (config.records + config.val_records + config.test_records) * MAX_RECORD_FRAMES
    start = time.perf_counter()
    with tqdm(total=max_frames, unit=" frames", unit_scale=True, desc=f"collecting {config.env}") as bar:
        try:
            metadata = collect(config, bar.update, cli.command_line("collect"))
        except KeyboardInterrupt:
            bar.close()
            print(f"interrupted: the same command continues from {config.out}.partial")
            raise
        bar.total = bar.n  # records may be shorter than the longest
    seconds = time.perf_counter() - start
    splits = metadata["splits"]
    num_frames = sum(split["frames"] for split in splits.values())
    num_bytes = sum(path.stat().st_size for path in config.out.glob("*/*.array_record"))
    for split, counts in splits.items():
        print(f"{split:>5}: {counts['records']} records, {counts['frames']} frames")
    print(
        f"{config.out}: {num_frames / seconds:,.0f} frames/s with {config.workers} workers, "
        f"{num_bytes / num_frames:.0f} bytes per frame"
    )


if __name__ == "__main__":
    cli.run(main, __doc__)
