"""Prefetching keeps the order, runs ahead, raises errors and leaves no threads."""

import threading
import time

import pytest

from dreamrun.data.dataset import ClipDataset
from dreamrun.data.workers import prefetch

LENGTHS = [12, 20, 9, 31, 40, 8, 16, 27, 5, 33, 22, 14]  # one too short for clips of 8 frames


@pytest.fixture
def folder(tmp_path, write_set, make_record):
    """Records of many lengths, five a shard."""
    return write_set(tmp_path / "set", [make_record(length) for length in LENGTHS], records_per_shard=5)


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


def test_prefetch_raises_what_its_items_raise():
    def numbers():
        yield 1
        raise ZeroDivisionError("in the thread")

    items = prefetch(numbers())
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(items)


@pytest.mark.parametrize("num_taken", [0, 1, 3])
def test_closing_leaves_no_thread_behind(folder, num_taken):
    before = set(threading.enumerate())
    items = prefetch(ClipDataset(folder, "train", clip_frames=8, stride=1).batches(2), depth=1)
    for _ in range(num_taken):
        next(items)
    assert num_taken == 0 or set(threading.enumerate()) > before
    items.close()
    assert set(threading.enumerate()) == before


def test_finished_or_failed_prefetch_leaves_no_thread_behind(folder):
    before = set(threading.enumerate())
    list(prefetch(ClipDataset(folder, "train", clip_frames=8).batches(2)))
    with pytest.raises(TypeError):
        list(prefetch(map(len, [1])))
    assert set(threading.enumerate()) == before
