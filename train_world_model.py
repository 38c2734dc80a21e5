"""Train a world model on a data set.

python train_world_model.py --data datasets/coinrun --out runs/first --preset nano --max-steps 2000
python train_world_model.py --data datasets/coinrun --out runs/first --resume auto
python train_world_model.py --data datasets/pong datasets/bigfish --out runs/games --mix 1,2
torchrun --standalone --nproc-per-node=8 --max-restarts=3 train_world_model.py --data datasets/coinrun --out runs/first

Without a clone of the repository: `dreamrun train`, and `torchrun ... -m dreamrun.train_world_model` for several GPUs.
"""

import shlex
import sys

from dreamrun import cli
from dreamrun.training.distributed import print0
from dreamrun.training.loop import CheckpointNotSavedError, train
from dreamrun.training.train_config import TrainConfig


def main(config: TrainConfig) -> None:
    """Train, then print where the checkpoint is."""
    try:
        checkpoint = train(config, cli.command_line("train"))
    except CheckpointNotSavedError as error:  # not a mistake in the options
        cli.print_error(str(error))
        sys.exit(1)
    print0(f"done: {checkpoint}")
    options = shlex.join(["--checkpoint", str(checkpoint), "--data", str(config.folders[0])])
    print0(f"dream with it: dreamrun infer {options}")


if __name__ == "__main__":
    cli.run(main, __doc__)
