"""Run an iterator ahead of its consumer, in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator


def prefetch(items: Iterable, depth: int = 2) -> Iterator:
    """Yield the items of an iterator that runs in a thread, up to `depth` items ahead. Its errors are raised here.

    The thread ends when this generator is closed.
    """
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, item) -> bool:
        """Whether the item was taken before the consumer stopped."""
        while not stopped.is_set():
            try:
                ready.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work():
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
