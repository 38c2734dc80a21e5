"""Train a world model on a data set.

python train_world_model.py --data datasets/coinrun --out runs/first --preset nano --max-steps 2000
python train_world_model.py --data datasets/coinrun --out runs/first --resume auto
python train_world_model.py --data datasets/pong datasets/bigfish --out runs/games --mix 1,2
torchrun --standalone --nproc-per-node=8 --max-restarts=3 train_world_model.py --data datasets/coinrun --out runs/first
"""

from __future__ import annotations

import shlex
import sys

from dreamrun import cli
from dreamrun.training.checkpoint import CheckpointNotSavedError
from dreamrun.training.config import TrainConfig
from dreamrun.training.distributed import print0, print_error_once
from dreamrun.training.loop import train


def main(config: TrainConfig) -> None:
    """Train, then print where the checkpoint is."""
    command = shlex.join(["python", "train_world_model.py", *sys.argv[1:]])
    try:
        checkpoint = train(config, command)
    except CheckpointNotSavedError as error:  # not a mistake in the options
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print0(f"done: {checkpoint}")
    options = shlex.join(["--checkpoint", str(checkpoint), "--data", str(config.folders[0])])
    print0(f"dream with it: python -m scripts.infer {options}")


if __name__ == "__main__":
    cli.run(main, TrainConfig, __doc__, print_error_once)
