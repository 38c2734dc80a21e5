"""The ranks of one attempt find each other, whatever an earlier attempt has left in torchrun's store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist
from tiny import random_model

from dreamrun.training.distributed import agree_on_attempt
from dreamrun.training.state import find_start, save_checkpoint

SECONDS = timedelta(seconds=20)


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=SECONDS)


def attempt(store, num_ranks: int = 3) -> str:
    """Every rank in a thread with a client of its own; the name that they agree on."""
    clients = [dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=SECONDS) for _ in range(num_ranks)]
    with ThreadPoolExecutor(num_ranks) as pool:
        jobs = [pool.submit(agree_on_attempt, clients[rank], rank, num_ranks, SECONDS) for rank in range(num_ranks)]
        names = {job.result() for job in jobs}
    assert len(names) == 1
    return names.pop()


def test_each_attempt_has_a_name_of_its_own(store):
    assert len({attempt(store) for _ in range(4)}) == 4


def test_what_a_killed_attempt_has_left_is_not_used(store):
    """Rank 1 had joined, and rank 2 not, when the attempt before was killed."""
    store.set("joined/1", "old")
    store.set("answer/old", "old attempt")
    store.set("confirmed/old attempt/1", "")
    assert attempt(store) != "old attempt"


def test_a_rank_that_does_not_join_is_named(store):
    with pytest.raises(TimeoutError, match=r"ranks \[1\] did not join"):
        agree_on_attempt(store, 0, 2, timedelta(seconds=0.2))


def test_a_restart_on_another_machine_resumes(tmp_path):
    save_checkpoint(tmp_path, random_model(), {"step": 1}, keep=3)
    with pytest.raises(ValueError, match="already holds a run"):
        find_start("", tmp_path)
    assert find_start("", tmp_path, is_restart=True).name == "step_0000001"
