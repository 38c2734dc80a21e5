"""Rank and world size as torchrun sets them, and communication between ranks.

In a process that was not started by torchrun, every function works as for a single rank.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dreamrun.training.rendezvous import attempt_store

T = TypeVar("T")
ERROR_EXIT_CODE = 2  # for a user's mistake, as in cli.py
# How long a rank waits for the others: in a training step, and where one rank may index a data set, verify a checkpoint
# or save one. A rank that was killed is noticed at once: these times only end a wait for a rank that hangs.
STEP_TIMEOUT, WORK_TIMEOUT = timedelta(minutes=10), timedelta(hours=24)
_work_group: dist.ProcessGroup | None = None  # all ranks, with WORK_TIMEOUT


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def print0(message: str, file: TextIO | None = None) -> None:
    """Print on rank 0 only, at once also where the output is a file."""
    if rank() == 0:
        print(message, file=file, flush=True)


def num_restarts() -> int:
    """How many times torchrun on this machine has restarted this run after a rank failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the ranks, if torchrun has started more than one."""
    global _work_group
    if world_size() == 1:
        yield
        return
    # NCCL for tensors on GPUs, gloo for the rest.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = attempt_store(rank(), world_size(), STEP_TIMEOUT)
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=STEP_TIMEOUT)
    _work_group = dist.new_group(backend="gloo", timeout=WORK_TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it may wait for ranks that have ended
    _work_group = None


def all_gather_object(value: T) -> list[T]:
    """Return the picklable values of all ranks, in the order of ranks, on every rank. Waits up to WORK_TIMEOUT."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_work_group)
    return values


def barrier() -> None:
    """Wait until every rank has come here."""
    all_gather_object(None)


def all_reduce_max(value: int) -> int:
    """The largest value of all ranks. Runs on the CPU; does not synchronise the GPU."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(int(value))
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of the tensors of all ranks, in place, without waiting for the device."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= world_size()
    return value


def raise_on_all_ranks(function: Callable[[], T]) -> T:
    """Call a function on every rank. If it fails on one, fail on all, with one error message.

    Raises:
        ValueError, OSError: the function's error, if there is one rank.
        SystemExit: on every rank if there are several, after rank 0 has printed the first failed rank's error.
    """
    if not dist.is_initialized():
        return function()
    result, error_message = None, None
    try:
        result = function()
    except (ValueError, OSError) as error:
        error_message = str(error)
        if os.environ.get("DREAMRUN_DEBUG"):
            traceback.print_exc()
    fail_on_all_ranks(error_message)
    return result  # type: ignore[return-value]


def fail_on_all_ranks(error_message: str | None) -> None:
    """Fail on every rank if any rank passes an error message. Every rank must call this.

    Raises:
        ValueError: with the message, if there is one rank.
        SystemExit: on every rank if there are several, after rank 0 has printed the first message.
    """
    first = next(filter(None, all_gather_object(error_message)), None)
    if first is None:
        return
    if not dist.is_initialized():
        raise ValueError(first)
    exit_on_all_ranks(first)


def exit_on_all_ranks(error_message: str, code: int = ERROR_EXIT_CODE) -> None:
    """Print an error message on rank 0, then end every rank. Every rank must call this.

    torchrun kills all ranks when the first one ends. The barrier keeps every rank alive until rank 0 has printed.
    """
    if rank() == 0:
        print(f"error: {error_message}", file=sys.stderr, flush=True)
    barrier()
    raise SystemExit(code)


def print_error_once(error_message: str) -> None:
    """Print an error that every rank has found before the ranks were connected, such as a wrong option."""
    if world_size() > 1:
        with process_group():
            exit_on_all_ranks(error_message)
    print(f"error: {error_message}", file=sys.stderr)


def rank_zero_first(function: Callable[[], T]) -> T:
    """Call a function on rank 0, then on the other ranks, which find the files that rank 0 has written.

    Raises as `raise_on_all_ranks`.
    """
    first = raise_on_all_ranks(function if rank() == 0 else lambda: None)
    others = raise_on_all_ranks(function if rank() > 0 else lambda: None)
    return first if rank() == 0 else others  # type: ignore[return-value]


def broadcast_from_rank_zero(function: Callable[[], T]) -> T:
    """Call a function on rank 0 and return its result on every rank. Raises as `raise_on_all_ranks`."""
    return all_gather_object(raise_on_all_ranks(function if rank() == 0 else lambda: None))[0]  # type: ignore[return-value]
