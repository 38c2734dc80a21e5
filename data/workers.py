"""Processes that share work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

CONTEXT = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of the parent hold


@contextmanager
def worker_pool(num_workers: int, initializer: Callable | None = None, *shared) -> Iterator[ProcessPoolExecutor]:
    """A pool that leaves Ctrl-C to the parent and ends with it, even if that is killed.

    Whatever is under way when the context ends is finished; what waits is dropped.

    Args:
        initializer: called with `shared` in each process as it begins.

    Raises:
        ValueError: one of the processes was killed.
    """
    pool = ProcessPoolExecutor(num_workers, CONTEXT, _begin, (initializer, shared))
    try:
        yield pool
    except BrokenProcessPool:
        raise ValueError(
            "a worker process was killed, perhaps as memory ran short: the same command with fewer --workers goes on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(initializer: Callable | None, shared: tuple) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer:
        initializer(*shared)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
