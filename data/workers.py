"""Work in the background: pools of worker processes, and a thread that reads ahead."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
SPAWN = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold


class _Pool(ProcessPoolExecutor):
    """A pool that starts each process whole: Ctrl-C waits until then, in this process and, by its mask, in the new one.

    Otherwise a process could start with half of its data, or be interrupted in its imports.
    """

    def submit(self, *arguments, **options):
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(handler):
            return super().submit(*arguments, **options)
        pressed = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: pressed.set())  # another thread may receive it
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(*arguments, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.signal(signal.SIGINT, handler)
            if pressed.is_set():
                signal.raise_signal(signal.SIGINT)


@contextmanager
def worker_pool(num_workers: int, initializer: Callable | None = None, *shared) -> Iterator[ProcessPoolExecutor]:
    """A process pool whose workers ignore Ctrl-C, and end when the parent ends, even if it is killed.

    When the context ends, running jobs are completed and waiting jobs are dropped.

    Args:
        initializer: called with `shared` at the start of each process.
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all processes; the parent handles it
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if initializer:
        initializer(*shared)


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def prefetch(items: Iterable[T], depth: int = 3) -> Generator[T, None, None]:
    """Yield the items of an iterator that runs in a thread, up to `depth` items ahead. Its errors are raised here.

    The thread ends when this generator is closed.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "prefetch") as thread:
        ready = deque(thread.submit(next, iterator, end) for _ in range(depth))
        try:
            while (item := ready.popleft().result()) is not end:
                ready.append(thread.submit(next, iterator, end))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)
