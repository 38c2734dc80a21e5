"""`train_world_model.py` with a network that trains in no time, for tests that need processes of their own.

With SEEN in the environment, each rank appends the clips it trains on to the file `SEEN.rank`.
"""

import os

import torch
from tiny import SMALLEST

import cli
from model import PRESETS
from train_world_model import main
from training import loop, validation
from training.config import TrainConfig

torch.set_num_threads(1)
PRESETS["smallest"] = SMALLEST
validation.ROLLOUT_FRAMES = 8


def note_clips(self, batch):
    with open(f"{os.environ['SEEN']}.{loop.rank()}", "a") as file:
        for clip in zip(batch.record_ids, batch.starts, strict=True):
            print(*clip, file=file)
    return update(self, batch)


if "SEEN" in os.environ:
    update, loop.Trainer._update = loop.Trainer._update, note_clips

if __name__ == "__main__":
    cli.run(main, TrainConfig)
