"""Out of memory: one clear error with advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dreamrun.training.config import TrainConfig
from dreamrun.training.distributed import rank, world_size


@contextmanager
def explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Turn an out-of-memory error of a GPU or CPU into a ValueError that says what to change.

    Only the rank that ran out of memory raises: the other ranks may be waiting for its gradients.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(out_of_memory_advice(config)) from None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch ran out of memory, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory_advice(config: TrainConfig) -> str:
    """An error message that names the options which save memory."""
    where = f"out of memory on rank {rank()}" if world_size() > 1 else "out of memory"
    clips = config.batch_size // (world_size() * config.accumulate)
    advice = []
    if clips > 1:
        advice += [
            f"a smaller --batch-size (now {config.batch_size})",
            f"a higher --accumulate (now {config.accumulate}), which gives the same result",
        ]
    if not config.activation_checkpointing:
        advice.append("--activation-checkpointing, which is slower and gives the same result")
    advice.append("a smaller --preset or fewer --clip-frames")
    return f"{where} with {clips} {'clip' if clips == 1 else 'clips'} at a time: try {'; '.join(advice)}"
