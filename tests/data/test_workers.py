"""Ctrl-C while worker processes start."""

import os
import signal
import threading
from contextlib import suppress
from multiprocessing import popen_spawn_posix

import pytest

from dreamrun.data.workers import worker_pool


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
