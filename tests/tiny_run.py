"""`train_world_model.py` with a network that trains in a moment, for tests that start training processes.

If the environment has SEEN, each rank appends the clips that it trains on to the file `SEEN.RANK`.
SIGUSR1 makes a process print the stacks of its threads.
"""

import faulthandler
import functools
import os
import signal

import torch
from tiny import SMALLEST

from dreamrun import cli, train_world_model
from dreamrun.model import PRESETS
from dreamrun.training.distributed import rank
from dreamrun.training.loop import train

faulthandler.register(signal.SIGUSR1)
torch.set_num_threads(1)
PRESETS["smallest"] = SMALLEST


def note_clips(state, batch):
    with open(f"{os.environ['SEEN']}.{rank()}", "a") as file:
        for clip in zip(batch.record_ids, batch.starts, strict=True):
            print(batch.number, *clip, file=file)


if "SEEN" in os.environ:
    train_world_model.train = functools.partial(train, before_step=note_clips)

if __name__ == "__main__":
    cli.run(train_world_model.main)
