"""Convert a published open-oasis or CoinRun checkpoint to a checkpoint folder of this project.

python -m scripts.import_open_oasis CKPT.pt checkpoints/coinrun-public
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from dreamrun import cli
from dreamrun.data.atomic import atomic_folder
from dreamrun.games.procgen_actions import procgen_actions
from dreamrun.model.open_oasis import import_state_dict


@dataclass(frozen=True)
class ImportConfig:
    """The published file, the output folder, and the sizes that the file does not hold."""

    checkpoint: Annotated[Path, tyro.conf.Positional]  # the published file: {"model": state_dict, ...}
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
    try:
        published = torch.load(config.checkpoint, map_location="cpu", weights_only=True)
        weights = published["model"]
    except Exception as error:  # torch.load raises many kinds of errors
        # The whole message would advise to load the file without weights_only, which runs code that it brings.
        reason = type(error).__name__
        raise ValueError(f'{config.checkpoint} is not a checkpoint {{"model": state_dict}}: {reason}') from None
    model = import_state_dict(weights, (config.frame_height, config.frame_width), config.window_frames)
    coinrun = procgen_actions("coinrun")
    if model.config.num_actions == len(coinrun):
        model.game = replace(model.game, environment="coinrun", actions=coinrun)
    with atomic_folder(config.out) as temporary:
        model.save_pretrained(temporary)
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{config.out}: {num_parameters / 1e6:.2f} M parameters; all weights match")


if __name__ == "__main__":
    cli.run(main, __doc__)
