"""Rank, world size, what ranks tell each other, and the device of this process, as torchrun sets them.

In a process that stands alone everything here works as if it were the only rank.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor

LAST_WORD_SECS = 5.0  # torchrun ends all ranks when one has ended; so long the others leave rank 0 to say why
MISTAKE = 2  # exit code, as in cli.py


def rank() -> int:
    """This process's number among all, 0 when alone."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def print0(message: str, file: TextIO | None = None) -> None:
    """Print, once over all ranks."""
    if rank() == 0:
        print(message, file=file)


def num_restarts() -> int:
    """How often torchrun has started this run again, after a rank failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other ranks, where torchrun has started several."""
    if world_size() == 1:
        yield
        return
    # NCCL for what is on GPUs, gloo for what is not. Long, as the others wait while rank 0 indexes a large data set.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=1))
    yield
    dist.destroy_process_group()  # not after an error: it could wait for ranks that are gone


def all_gather_object(value: Any) -> list[Any]:
    """Every rank's (picklable) value, by rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_max(status: int) -> int:
    """The highest number that any rank has come with. Goes between CPUs: waits for the ranks, for no device."""
    if not dist.is_initialized():
        return status
    box = torch.tensor(status)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of the ranks' tensors, on their device, which is not waited for."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= world_size()
    return value


def raise_on_all_ranks(function: Callable[[], Any]) -> Any:
    """Call a function on every rank; a mistake on one ends all, and is told once.

    Raises:
        ValueError: on rank 0, the first rank's mistake (ValueError or OSError).
        SystemExit: on the others, without a word.
    """
    result, mistake = None, None
    try:
        result = function()
    except (ValueError, OSError) as error:
        mistake = str(error)
    first = next(filter(None, all_gather_object(mistake)), None)
    if first is None:
        return result
    if rank() == 0:
        raise ValueError(first) from None
    time.sleep(LAST_WORD_SECS)
    raise SystemExit(MISTAKE)


def rank_zero_first(function: Callable[[], Any]) -> Any:
    """`agreed`, the others after rank 0: they find what it has left on disk."""
    first = raise_on_all_ranks(function if rank() == 0 else lambda: None)
    others = raise_on_all_ranks(function if rank() > 0 else lambda: None)
    return first if rank() == 0 else others


def broadcast_from_rank_zero(function: Callable[[], Any]) -> Any:
    """What a function returns on rank 0, on every rank; `agreed`."""
    return all_gather_object(raise_on_all_ranks(function if rank() == 0 else lambda: None))[0]
