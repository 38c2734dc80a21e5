"""Work in the background: Ctrl-C while processes start; prefetching keeps the order and leaves no threads."""

import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing import popen_spawn_posix

import pytest

from dreamrun.data.dataset import ClipDataset
from dreamrun.data.workers import prefetch, worker_pool


def test_interrupted_while_a_worker_starts(monkeypatch, capfd):
    """Another thread receives the signal, as the main thread blocks it; the worker must still get all of its data."""
    spawn = popen_spawn_posix.util.spawnv_passfds
    pids, stopped = [], threading.Event()
    other = threading.Thread(target=stopped.wait)
    other.start()

    def spawn_and_interrupt(path, *arguments):
        pids.append(spawn(path, *arguments))
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # Python runs the handler between two of these steps
            pass
        return pids[-1]

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with worker_pool(1) as pool:
            monkeypatch.setattr(popen_spawn_posix.util, "spawnv_passfds", spawn_and_interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.submit(abs, -1)
    finally:
        signal.signal(signal.SIGINT, previous)
        stopped.set()
        other.join()
    with suppress(ChildProcessError):  # the pool has waited for it
        os.waitpid(pids[0], 0)
    assert len(pids) == 1 and "Traceback" not in capfd.readouterr().err


def test_prefetch_keeps_order_and_runs_ahead_but_not_too_far():
    made = []

    def numbers():
        for number in range(50):
            made.append(number)
            yield number

    items = prefetch(numbers(), depth=2)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(made) == 3  # one taken, two waiting
    assert list(items) == list(range(1, 50))


def test_prefetch_raises_what_its_items_raise_and_leaves_no_thread_behind():
    def numbers():
        yield 1
        raise ZeroDivisionError("in the thread")

    before = set(threading.enumerate())
    items = prefetch(numbers())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(items)
    assert list(prefetch(range(50))) == [*range(50)] and set(threading.enumerate()) == before


@pytest.mark.parametrize("num_taken", [0, 1, 3])
def test_closing_leaves_no_thread_behind(tmp_path, write_set, make_record, num_taken):
    """Not those of a loader either."""
    dataset = ClipDataset(write_set(tmp_path / "set", [make_record(40, i) for i in range(8)]), "train", clip_frames=8)
    before = set(threading.enumerate())
    items = prefetch(dataset.batches(2), depth=1)
    for _ in range(num_taken):
        next(items)
    assert num_taken == 0 or set(threading.enumerate()) > before
    items.close()
    assert set(threading.enumerate()) == before
