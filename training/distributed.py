"""Rank and world size as torchrun sets them, and communication between ranks.

In a process that was not started by torchrun, every function works as for a single rank. A rank that fails raises;
torchrun then ends the others.
"""

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
# How long a rank waits for the others: in a training step, and where one rank may index a data set, verify a checkpoint
# or save one. A rank that was killed is noticed at once: these times only end a wait for a rank that hangs.
STEP_TIMEOUT, WORK_TIMEOUT = timedelta(minutes=10), timedelta(hours=24)
HINT_SECS = 5.0  # that a rank waits for the others before it says so
# What torchrun sets. Shells and notebooks keep these variables, too, and pass them on.
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
VARIABLES = (*NUMBERS, "MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE")
JOIN_POLL_SECS = 0.05
_work_group: dist.ProcessGroup | None = None  # all ranks, with WORK_TIMEOUT


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def num_restarts() -> int:
    """How many times torchrun on this machine has restarted this run after a rank failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def print0(message: str, file: TextIO | None = None) -> None:
    """Print on rank 0 only, at once also where the output is a file."""
    if rank() == 0:
        print(message, file=file, flush=True)


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the ranks, if torchrun has started more than one."""
    global _work_group
    _check_environment()
    if world_size() == 1:
        yield
        return
    store = _wait_for(_join)
    # NCCL for tensors on GPUs, gloo for the rest.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world_size(), timeout=STEP_TIMEOUT)
    _work_group = dist.new_group(backend="gloo", timeout=WORK_TIMEOUT)
    yield
    dist.destroy_process_group()  # not after an error: it may wait for ranks that have ended
    _work_group = None


def _check_environment() -> None:
    """Check the variables that torchrun sets."""
    values = {name: os.environ[name] for name in NUMBERS if name in os.environ}
    problem = next(
        (f"{name} is {value!r}: not a number" for name, value in values.items() if not value.isdecimal()), ""
    )
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if not problem and rank() >= world_size():
        problem = f"RANK is {rank()}, but WORLD_SIZE, the number of processes, is {world_size()}"
    elif not problem and world_size() > 1 and (missing := [name for name in needed if not os.environ.get(name)]):
        problem = f"WORLD_SIZE is {world_size()}, but {missing[0]} is not set"
    if problem:
        raise ValueError(f"environment variables: {problem}. {_how_to_start()}")


def _how_to_start() -> str:
    unset = " ".join(f"-u {name}" for name in VARIABLES if name in os.environ)
    return (
        f"To train with one process, start it with `env {unset} python ...`; "
        "with several, with `torchrun --standalone --nproc-per-node=NUMBER ...`"
    )


def _join() -> dist.Store:
    # The store that torchrun serves is the same after a restart, and still holds the addresses of processes that have
    # ended. A rank that read one would fail or wait. So each attempt has a prefix of its own. (The number of restarts
    # cannot be the prefix: each machine counts its own.)
    store, *_ = next(dist.rendezvous("env://", rank(), world_size(), timeout=STEP_TIMEOUT))
    return dist.PrefixStore(f"attempt_{agree_on_attempt(store, rank(), world_size(), STEP_TIMEOUT)}", store)


def _wait_for(join: Callable[[], T]) -> T:
    """The result of `join`, which runs in a thread: its waiting in torch would not hear Ctrl-C."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(join())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    place = f"at MASTER_ADDR {os.environ['MASTER_ADDR']}, MASTER_PORT {os.environ['MASTER_PORT']}"
    if not wait([future], HINT_SECS).done:
        who = f"RANK {rank()} of WORLD_SIZE {world_size()}"
        print(f"{who} is waiting for the others {place}. {_how_to_start()}", file=sys.stderr, flush=True)
    try:
        return future.result()
    except (RuntimeError, TimeoutError) as error:  # of torch's store, or of `agree_on_attempt`
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the {world_size()} processes did not meet {place} ({reason}). {_how_to_start()}") from None


def agree_on_attempt(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name for this attempt: rank 0 draws it, and every rank returns it.

    Each rank joins with a new random id, and waits for an answer to this id, so that it never reads an old answer.

    Raises:
        TimeoutError: a rank did not join.
    """
    own_id = uuid.uuid4().hex
    if rank:
        store.set(f"joined/{rank}", own_id)
        attempt = store.get(f"answer/{own_id}").decode()  # waits for it
        store.set(f"confirmed/{attempt}/{rank}", "")
        return attempt
    waiting, deadline = set(range(1, world_size)), time.monotonic() + timeout.total_seconds()
    while waiting:
        for other in sorted(waiting):
            if store.check([f"joined/{other}"]):  # it may be the id of a process before the restart, so look again
                store.set(f"answer/{store.get(f'joined/{other}').decode()}", own_id)
            if store.check([f"confirmed/{own_id}/{other}"]):
                waiting.remove(other)
        if time.monotonic() > deadline:
            raise TimeoutError(f"ranks {sorted(waiting)} did not join within {timeout}")
        time.sleep(JOIN_POLL_SECS)
    return own_id


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


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Other ranks enter this context after rank 0 has left it, so that they find the files that it has written."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


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
