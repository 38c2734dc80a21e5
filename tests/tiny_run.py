"""`train_world_model.py` with a network that trains in a moment, for tests that start training processes.

If the environment has SEEN, each rank appends the clips that it trains on to the file `SEEN.RANK`.
SIGUSR1 makes a process print the stacks of its threads.
"""

import faulthandler
import os
import signal

import torch
from tiny import SMALLEST

from dreamrun import cli, train_world_model
from dreamrun.model import PRESETS
from dreamrun.training import loop
from dreamrun.training.distributed import rank
from dreamrun.training.loop import train_step

faulthandler.register(signal.SIGUSR1)
torch.set_num_threads(1)
PRESETS["smallest"] = SMALLEST


def note_clips(run, batch):
    with open(f"{os.environ['SEEN']}.{rank()}", "a") as file:
        for clip in zip(batch.record_ids, batch.starts, strict=True):
            print(batch.number, *clip, file=file)
    return train_step(run, batch)


if "SEEN" in os.environ:
    loop.train_step = note_clips

if __name__ == "__main__":
    cli.run(train_world_model.main)
