"""Judge whether words alone name the right game: dream first frames, and let a classifier of real frames name them.

python -m scripts.judge_words --checkpoint runs/games/checkpoints/latest --data datasets/games/*
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dreamrun import cli
from dreamrun.data.atomic import check_output, write_json
from dreamrun.data.batch import to_uint8
from dreamrun.data.video import write_png
from dreamrun.evaluation.words import judge_words
from dreamrun.games.ranges import Range
from dreamrun.model import WorldModel
from dreamrun.model.inference import choose_device, prepare_for_inference
from dreamrun.model.options import DeviceOptions, SamplerSettings


@dataclass(frozen=True, kw_only=True)
class JudgeWordsConfig(SamplerSettings, DeviceOptions):
    """The checkpoint, the real play, and how much is dreamt."""

    checkpoint: str  # checkpoint folder, or user/name on the Hub; of several games, told in words
    data: tuple[Path, ...]  # data sets of its games
    num_frames: Annotated[int, Range(1, 256)] = 8  # first frames for each phrasing
    text: tyro.conf.Suppress[str | None] = None  # the phrasings take its place
    # The report; words.png beside it shows a row of frames for each held-out phrasing.
    output: Path = Path("words.json")

    def __post_init__(self):
        super().__post_init__()
        if not self.data:
            raise ValueError("data names no data set")


def main(config: JudgeWordsConfig) -> None:
    """Print and write how often the dreams are of the game that the words name."""
    picture = config.output.with_suffix(".png")
    check_output(config.output, suffix=".json")
    check_output(config.output.parent, is_folder=True, files=(config.output.name, picture.name))
    model = WorldModel.from_pretrained(config.checkpoint)
    model = prepare_for_inference(model, choose_device(config.device), config.bf16)
    settings = config.resolve(model.config)
    report, shown = judge_words(model, config.data, config.num_frames, settings)
    print(f"games: {', '.join(report['games'])}; chance {report['chance']:.0%}")
    print(f"the classifier names {report['real_frames']:.1%} of held-out real frames rightly")
    for kind in ("trained phrasings", "held-out phrasings"):
        by_game = ", ".join(f"{game} {share:.0%}" for game, share in report[kind]["by_game"].items())
        print(f"{kind}: {report[kind]['accuracy']:.1%} of first frames are of the right game ({by_game})")
    options = {"checkpoint": config.checkpoint, "data": [str(folder) for folder in config.data]}
    options |= {"num_frames": config.num_frames, **settings.to_dict()}
    write_json(config.output, {**options, **report})
    rows = [np.concatenate(list(to_uint8(frames)), axis=1) for _, frames in shown]
    write_png(picture, np.concatenate(rows))
    print(f"wrote {config.output} and {picture}, with a row each for: {'; '.join(text for text, _ in shown)}")


if __name__ == "__main__":
    cli.run(main, __doc__)
