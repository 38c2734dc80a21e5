"""The ranks of one attempt find each other, whatever an earlier attempt has left in torchrun's store."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist
from runs import take_ctrl_c

from dreamrun.cli import print_error
from dreamrun.training.distributed import VARIABLES, agree_on_attempt, process_group, rank, world_size

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


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": ""}, "RANK is '': not a number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two': not a number"),
        ({"LOCAL_RANK": "-1", "WORLD_SIZE": "1"}, "LOCAL_RANK is '-1': not a number"),
        ({"RANK": "1"}, "RANK is 1, but WORLD_SIZE, the number of processes, is 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but WORLD_SIZE, the number of processes, is 2"),
        ({"WORLD_SIZE": "0"}, "RANK is 0, but WORLD_SIZE, the number of processes, is 0"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "29500"}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "http"}, "MASTER_PORT is 'http': not a"),
    ],
)
def test_stale_variables_are_named_with_the_way_to_start(monkeypatch, variables, words):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words) as error, process_group():
        pytest.fail("entered")
    assert f"-u {next(iter(variables))}" in str(error.value) and "torchrun --standalone" in str(error.value)


def test_leftovers_of_a_single_process_do_no_harm(monkeypatch):
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "3", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with process_group():
        assert (rank(), world_size()) == (0, 1)


JOIN = "from dreamrun.training.distributed import process_group\nwith process_group(): pass"


@pytest.mark.parametrize("own_rank", [0, 1])
def test_a_process_that_waits_for_others_says_so_and_hears_ctrl_c(own_rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"WORLD_SIZE": "2", "RANK": str(own_rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-c", JOIN], env={**os.environ, **values}, stderr=subprocess.PIPE, text=True,
        preexec_fn=take_ctrl_c,
    )  # fmt: skip
    line = process.stderr.readline()
    assert line.startswith(f"RANK {own_rank} of WORLD_SIZE 2 is waiting for the others at MASTER_ADDR 127.0.0.1"), line
    assert "`env -u RANK -u WORLD_SIZE -u MASTER_PORT -u MASTER_ADDR python ...`" in line
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT  # Python's own end; `cli.run` makes it 130
    process.stderr.close()


def test_a_busy_port_is_one_line(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        values = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        for name, value in {**values, "MASTER_PORT": str(server.getsockname()[1])}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=r"did not meet at MASTER_ADDR 127\.0\.0\.1, .*address already in use"):
            next(process_group().gen)


def test_an_error_is_printed_by_the_first_rank_before_the_others_would(monkeypatch, capsys):
    """torchrun ends the others meanwhile."""
    printed_before, waited = {}, []
    monkeypatch.setattr("time.sleep", lambda secs: waited.append(capsys.readouterr().err))
    for number in (0, 1):
        monkeypatch.setenv("RANK", str(number))
        print_error("batch_size is 0")
        printed_before[number] = list(waited)
    assert printed_before == {0: [], 1: ["error: batch_size is 0\n"]}
