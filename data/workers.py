"""Pools of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess


class _Process(SpawnProcess):
    """A process that starts with Ctrl-C blocked, so that its imports cannot be interrupted."""

    @staticmethod
    def _Popen(process_obj):
        blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)


class _Spawn(SpawnContext):
    Process = _Process


SPAWN = _Spawn()  # a fork would copy locks that threads hold


@contextmanager
def _postponed_interrupt() -> Iterator[None]:
    """Ctrl-C waits for the end of the context, whichever thread receives it.

    Python runs the handler in the main thread: in the middle of starting a process, which would find half of its data.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    pressed = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pressed.is_set():
            signal.raise_signal(signal.SIGINT)


class _Pool(ProcessPoolExecutor):
    """A process pool that starts its processes whole: `shutdown` then knows all of them, and waits for them."""

    def submit(self, *arguments, **options):
        with _postponed_interrupt():
            return super().submit(*arguments, **options)


@contextmanager
def worker_pool(num_workers: int, initializer: Callable | None = None, *shared) -> Iterator[ProcessPoolExecutor]:
    """A process pool whose workers ignore Ctrl-C, and end when the parent ends, even if it is killed.

    When the context ends, running jobs are completed and waiting jobs are dropped.

    Args:
        initializer: called with `shared` at the start of each process.

    Raises:
        ValueError: a worker process was killed.
    """
    pool = _Pool(num_workers, SPAWN, _start_worker, (initializer, shared))
    try:
        yield pool
    except BrokenProcessPool:
        raise ValueError(
            "a worker process was killed, perhaps because memory ran out: the same command with fewer workers continues"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(initializer: Callable | None, shared: tuple) -> None:
    # Ctrl-C reaches the whole process group, and only the parent should handle it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if initializer:
        initializer(*shared)


def _exit_with_parent() -> None:
    """Wait for the parent to end, then end this process."""
    multiprocessing.parent_process().join()
    os._exit(1)
