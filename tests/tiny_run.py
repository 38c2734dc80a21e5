"""`train_world_model.py` with a network that trains in a moment, for tests that start training processes.

If the environment has SEEN, each rank appends the clips that it trains on to the file `SEEN.RANK`.
SIGUSR1 makes a process print the stacks of its threads.
"""

import faulthandler
import os
import signal

import torch
from tiny import SMALLEST

from dreamrun import cli
from dreamrun.model import PRESETS
from dreamrun.train_world_model import main
from dreamrun.training import action_strip, loop, plots, validation
from dreamrun.training.distributed import print_error_once, rank

faulthandler.register(signal.SIGUSR1)
torch.set_num_threads(1)
PRESETS["smallest"] = SMALLEST
validation.ROLLOUT_FRAMES = action_strip.STRIP_FRAMES = 8
plots.draw_metrics = lambda run_folder: None


def note_clips(state, batch, *args):
    with open(f"{os.environ['SEEN']}.{rank()}", "a") as file:
        for clip in zip(batch.record_ids, batch.starts, strict=True):
            print(batch.number, *clip, file=file)
    return train_step(state, batch, *args)


if "SEEN" in os.environ:
    train_step, loop.train_step = loop.train_step, note_clips

if __name__ == "__main__":
    cli.run(main, print_usage_error=print_error_once)
