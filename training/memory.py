"""When memory runs out: what would fit instead."""

from __future__ import annotations

from collections.abc import Callable

import torch

from training.config import TrainConfig
from training.distributed import rank, world_size


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says so, of a GPU or of a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def memory_advice(config: TrainConfig, step: Callable[[int], None]) -> str:
    """Which batch size would fit, found by trying.

    Args:
        step: trains on a batch of so many clips.
    """
    if world_size() > 1:  # a rank that tries alone would wait for the others
        return f"out of memory on rank {rank()}: choose a higher --accumulate than {config.accumulate}"
    size = config.batch_size // config.accumulate
    while size > 1:
        size //= 2
        if _fits(step, size * config.accumulate):
            return (
                f"out of memory with --batch-size {config.batch_size}: {size * config.accumulate} would fit, "
                f"or the same batch in more parts, with --accumulate {config.batch_size // size}"
            )
    return "out of memory even with one clip at a time: choose a smaller --preset or fewer --clip-frames"


def _fits(step: Callable[[int], None], batch_size: int) -> bool:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        step(batch_size)
        return True
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return False
