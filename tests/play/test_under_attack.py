"""Attacks on a server in its own process: its memory does not grow, and other players keep their rate."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playing import Client, can_play, largest_asset, raw_connection

from dreamrun.benchmarks.playing import running_server

WINDOW_SECS = 1.5
MAX_WINDOWS = 3
MAX_WAITING = 0.3  # share of the time that the server's threads may wait for a core


@pytest.fixture(scope="module")
def server(play_config):
    """The process of a server, and its address."""
    options = ("--checkpoint", play_config.checkpoint, "--data", play_config.data, "--port", 0, "--num-steps", 1)
    with running_server(*options, "--max-players", 3) as (process, name):
        yield process, f"http://{name}"


@pytest.fixture
def bystander(server):
    """A player at the game's own rate."""
    with Client(server[1]) as client:
        client.join().start()
        client.send("pause", on=False)
        client.wait_for("frame")
        yield client


def resident_mib(process_id: int) -> float:
    (line,) = (x for x in Path(f"/proc/{process_id}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def waiting_secs(process_id: int) -> float:
    """How long the threads of a process have waited for a CPU core, all together."""
    return sum(int(path.read_text().split()[1]) for path in Path(f"/proc/{process_id}/task").glob("*/schedstat")) / 1e9


def measure(process_id: int, player: Client) -> tuple[float, bool]:
    """Measure for some time how often a player gets a frame.

    Ticks are counted by the server's clock, so a slow client changes nothing.

    Returns:
        The share of the game's ticks that gave a frame (1 is the game's full rate), and whether the server had to wait
        for the cores of this machine, which are busy with something else.
    """
    player.send("speed", every=1)  # otherwise the server takes the player for idle
    waited, start, ticks = waiting_secs(process_id), time.monotonic(), []
    while time.monotonic() < start + WINDOW_SECS or len(ticks) < 2:
        ticks.append(player.wait_for("frame").header["tick"])
    assert ticks == sorted(set(ticks))
    busy = waiting_secs(process_id) - waited > MAX_WAITING * (time.monotonic() - start)
    return (len(ticks) - 1) / (ticks[-1] - ticks[0]), busy


def drop_connections(address: str, stopped: Callable[[], bool], connections: int = 100) -> None:
    """Open connections and drop them, each at another stage."""
    for number in range(connections):
        with contextlib.suppress(Exception):
            if number % 4 == 0:  # before any data
                raw_connection(address).close()
            elif number % 4 == 1:  # in the middle of a request
                raw_connection(address, b"GET /socket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: webso").close()
            else:
                client = Client(address, close_timeout=0.1)
                client.send("start", record=0)
                if number % 4 == 2:  # in the middle of a start, without a close message
                    client.socket.socket.shutdown(socket.SHUT_RDWR)
                else:
                    client.socket.send(np.random.default_rng(number).bytes(64 * 64 * 3))
                    client.send("record", on=True)
                client.close()
        if stopped():
            return


def flood(address: str, stopped: Callable[[], bool], message: str, **fields) -> None:
    """Send messages as fast as possible. The server closes the connection after some; then open the next one."""
    while not stopped():
        with contextlib.suppress(Exception), Client(address, close_timeout=0.1) as client:
            for number in itertools.count():
                client.send(message, **{"number": number, **fields})
                if stopped():
                    break


def hold_connections(address: str, stopped: Callable[[], bool], connections: int, data: bytes) -> None:
    """Keep connections open that do not read, or whose request does not end."""
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(raw_connection(address, data, small=True))
        while not stopped():
            time.sleep(0.05)


def stop_reading(address: str, stopped: Callable[[], bool]) -> None:
    """Play without reading the frames, and ask for large files without reading them."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(Client(address, sock=raw_connection(address, small=True), max_queue=1))
            client.send("start", record=0)
            client.send("pause", on=False)
        hold_connections(
            address, stopped, 40, f"GET /assets/{largest_asset().name} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        )


ATTACKS = {
    "a hundred connections": drop_connections,
    "flood of keys": lambda *arguments: flood(*arguments, "keys", held=["UP"]),
    "flood of starts": lambda *arguments: flood(*arguments, "start", record=0),
    "slow readers": stop_reading,
    "half-open requests": lambda *arguments: hold_connections(*arguments, 400, b"GET / HTTP/1.1\r\nHost: 127.0."),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_other_players_keep_their_rate(server, bystander, attack):
    """In some stretch of the attack. Stretches in which other programs leave the server no time prove nothing."""
    process, address = server
    stop, results = threading.Event(), []

    def run_attack():
        while not stop.is_set():
            ATTACKS[attack](address, stop.is_set)

    thread = threading.Thread(target=run_attack)
    thread.start()
    try:
        while len(results) < MAX_WINDOWS and not any(rate >= 0.8 for rate, _ in results):
            results.append(measure(process.pid, bystander))
    finally:
        stop.set()
        thread.join()
    assert process.poll() is None
    assert any(rate >= 0.8 for rate, _ in results) or all(busy for _, busy in results), results


def test_memory_is_freed_after_a_hundred_dropped_connections(server, bystander):
    process, address = server
    drop_connections(address, lambda: False, 24)  # libraries allocate their memory
    time.sleep(1.0)
    before = resident_mib(process.pid)
    drop_connections(address, lambda: False)
    time.sleep(2.0)
    assert process.poll() is None
    assert resident_mib(process.pid) < 1.1 * before
    assert bystander.wait_for("frame").header["together"] == 1
    assert can_play(address)
