"""Convert a published open-oasis or CoinRun checkpoint to a checkpoint folder of this project.

python -m scripts.import_open_oasis CKPT.pt checkpoints/coinrun-public
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from dreamrun import cli
from dreamrun.data.atomic import atomic_folder
from dreamrun.games.procgen_actions import procgen_actions
from dreamrun.model.open_oasis import import_state_dict, read_published


@dataclass(frozen=True)
class ImportConfig:
    """The published file, the output folder, and the sizes that the file does not hold."""

    checkpoint: Annotated[Path, tyro.conf.Positional]  # the published file: .pt, .ckpt or .safetensors
    out: Annotated[Path, tyro.conf.Positional]  # the folder to write
    frame_height: int = 64  # pixels
    frame_width: int = 64  # pixels
    window_frames: int = 32  # window that the network was trained with


def main(config: ImportConfig) -> None:
    """Read the file, rename its weights, and write the folder."""
    if not config.checkpoint.is_file():
        raise ValueError(f"no file at {config.checkpoint}")
    if config.out.exists():
        raise ValueError(f"{config.out} already exists: choose another folder")
    weights, size = read_published(config.checkpoint), (config.frame_height, config.frame_width)
    model = import_state_dict(weights, size, config.window_frames)
    coinrun = procgen_actions("coinrun")
    if model.config.num_actions == len(coinrun):
        model.game = replace(model.game, environment="coinrun", actions=coinrun)
    with atomic_folder(config.out) as temporary:
        model.save_pretrained(temporary)
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{config.out}: {num_parameters / 1e6:.2f} M parameters; all weights match")


if __name__ == "__main__":
    cli.run(main, __doc__)
