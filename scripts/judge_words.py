"""Judge whether words alone name the right game: dream first frames, and let a classifier of real frames name them.

python -m scripts.judge_words --checkpoint runs/games/checkpoints/latest --data datasets/games/*
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dreamrun import cli
from dreamrun.data.atomic import atomic_file, check_output
from dreamrun.data.pixels import to_uint8
from dreamrun.data.video import write_png
from dreamrun.evaluation.words import judge_words
from dreamrun.model import WorldModel
from dreamrun.model.inference import choose_device, prepare_for_inference


@dataclass(frozen=True)
class JudgeWordsConfig:
    """The checkpoint, the real play, and how much is dreamt."""

    checkpoint: str  # checkpoint folder, or user/name on the Hub; of several games, told in words
    data: tuple[Path, ...]  # data sets of its games
    num_frames: int = 8  # first frames for each phrasing
    num_steps: int | None = None  # denoising steps; None: the checkpoint's default
    # Classifier-free guidance scale; above 1 follows the words more, at twice the cost; None: the checkpoint's default.
    guidance: float | None = None
    seed: int = 0  # of the noise
    output: Path = Path(
        "words.json"
    )  # the report; words.png beside it shows a row of frames for each held-out phrasing
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self):
        if not self.data:
            raise ValueError("data names no data set")
        if not 1 <= self.num_frames <= 256:
            raise ValueError(f"num_frames is {self.num_frames}: it must lie in 1 to 256")


def main(config: JudgeWordsConfig) -> None:
    """Print and write how often the dreams are of the game that the words name."""
    check_output(config.output)
    model = prepare_for_inference(WorldModel.from_pretrained(config.checkpoint), choose_device(config.device))
    report, shown = judge_words(model, config.data, config.num_frames, config.seed, config.num_steps, config.guidance)
    print(f"games: {', '.join(report['games'])}; chance {report['chance']:.0%}")
    print(f"the classifier names {report['real_frames']:.1%} of held-out real frames rightly")
    for kind in ("trained phrasings", "held-out phrasings"):
        by_game = ", ".join(f"{game} {share:.0%}" for game, share in report[kind]["by_game"].items())
        print(f"{kind}: {report[kind]['accuracy']:.1%} of first frames are of the right game ({by_game})")
    settings = {"checkpoint": config.checkpoint, "data": [str(folder) for folder in config.data]}
    settings |= {"num_frames": config.num_frames, "seed": config.seed}
    settings["guidance"] = model.config.guidance if config.guidance is None else config.guidance
    settings["num_steps"] = config.num_steps or model.config.num_steps
    with atomic_file(config.output) as temporary:
        temporary.write_text(json.dumps({**settings, **report}, indent=2) + "\n")
    rows = [np.concatenate(list(to_uint8(frames)), axis=1) for _, frames in shown]
    picture = config.output.with_suffix(".png")
    write_png(picture, np.concatenate(rows))
    print(f"wrote {config.output} and {picture}, with a row each for: {'; '.join(text for text, _ in shown)}")


if __name__ == "__main__":
    cli.run(main, __doc__)
