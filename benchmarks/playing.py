"""Speed of playing: frames/s, dropped frames and delays that clients measure on a server in its own process."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import websockets

from dreamrun.benchmarks.machine import NetworkConfig, resident_bytes
from dreamrun.games.ranges import Positive
from dreamrun.play.messages import unpack_pictures

_START_SECS = 120.0  # time limit for the server to start
_WARM_UP_SECS = 2.0  # not measured


@dataclass(frozen=True)
class PlayingConfig(NetworkConfig):
    """Speed of playing, measured through the server's websocket."""

    data: Path = Path("samples/coinrun")  # data set with the prompts
    split: str = "test"
    players: Positive = 1
    seconds: float = 120.0


@dataclass
class ClientLog:
    """What one client has received."""

    fps: float = 0.0
    first_frame: float = 0.0  # its time of arrival, by time.perf_counter()
    ticks: list[int] = field(default_factory=list)  # of the received frames
    times: list[float] = field(default_factory=list)  # their times of arrival, in seconds
    model_ms: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)  # seconds from a key message to the first frame that uses it


def measure(config: PlayingConfig) -> dict:
    """Frames/s, dropped frames and delays of several players at once, and the start-up time."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = config.checkpoint or Path(folder) / config.preset
        if not config.checkpoint:
            config.load_model(config.data).save_pretrained(checkpoint)
        options = ["--checkpoint", checkpoint, "--data", config.data, "--split", config.split, "--port", 0]
        options += ["--max-players", config.players]
        options += ["--num-steps", config.num_steps] if config.num_steps else []
        start = time.perf_counter()
        with running_server(*options) as (process, address):
            logs = asyncio.run(_play_together(address, config))
            server_mib = resident_bytes(process.pid) / 2**20
    return _results(config, logs, start, server_mib)


@contextlib.contextmanager
def running_server(*options) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run `dreamrun play` in its own process while the block runs; gives the process and its host and port."""
    command = [sys.executable, "-m", "dreamrun", "play", *map(str, options)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            address = None
            while address is None and (line := process.stdout.readline()):
                address = re.search(r"play at http://(\S+)", line)
            if address is None:
                errors.seek(0)
                raise ValueError(
                    errors.read().strip().removeprefix("error: ") or "the server ended without an error message"
                )
            yield process, address[1]
        finally:
            process.terminate()
            process.communicate()


async def _play_together(address: str, config: PlayingConfig) -> list[ClientLog]:
    return await asyncio.gather(*(_play(address, config.seconds, player) for player in range(config.players)))


async def _play(address: str, seconds: float, player: int) -> ClientLog:
    """Play for some time, with random keys at random times."""
    rng, log = np.random.default_rng(player), ClientLog()
    async with websockets.connect(
        f"ws://{address}/socket", origin=f"http://{address}", proxy=None, compression=None, open_timeout=_START_SECS
    ) as socket:
        hello = json.loads(await socket.recv())
        log.fps, keys = hello["fps"], list(hello["keys"])
        await socket.send(json.dumps({"type": "start", "seed": player, "record": player % hello["num_records"]}))
        while not (
            isinstance(message := await socket.recv(), bytes) and unpack_pictures(message)[0]["type"] == "frame"
        ):
            pass
        await socket.send(json.dumps({"type": "pause", "on": False}))
        pressing = asyncio.create_task(_press(socket, keys, rng, sent := {}))
        first = None
        while first is None or time.perf_counter() < first + _WARM_UP_SECS + seconds:
            message = await asyncio.wait_for(socket.recv(), _START_SECS)
            if isinstance(message, bytes):
                now, header = time.perf_counter(), unpack_pictures(message)[0]
                log.first_frame = first = first or now
                acted_on = [number for number in sent if number <= header["keys"]]
                delays = [now - sent.pop(number) for number in acted_on]
                if now >= first + _WARM_UP_SECS:
                    log.ticks.append(header["tick"])
                    log.times.append(now)
                    log.model_ms.append(header["ms"])
                    log.delays += delays
        pressing.cancel()
    return log


async def _press(socket: websockets.ClientConnection, keys: list[str], rng: np.random.Generator, sent: dict) -> None:
    for number in range(1, 2**31):
        await asyncio.sleep(float(rng.uniform(0.15, 0.6)))
        held = [key for key in keys if rng.random() < 0.4]
        sent[number] = time.perf_counter()
        await socket.send(json.dumps({"type": "keys", "held": held, "number": number}))


def _results(config: PlayingConfig, logs: list[ClientLog], start: float, server_mib: float) -> dict:
    if not all(len(log.times) > 1 and log.delays for log in logs):
        raise ValueError(f"{config.seconds:g} seconds are too short for a measurement: give more --seconds")
    fps = logs[0].fps
    rates = [(len(log.times) - 1) / (log.times[-1] - log.times[0]) for log in logs]
    expected = sum(log.ticks[-1] - log.ticks[0] + 1 for log in logs)
    delays = np.concatenate([log.delays for log in logs])
    gaps = np.concatenate([np.diff(log.times) for log in logs])
    return {
        "network": str(config.checkpoint or config.preset),
        "players": config.players,
        "seconds": config.seconds,
        "fps": fps,
        "secs_to_first_frame": min(log.first_frame for log in logs) - start,
        "frames_per_sec_min": min(rates),
        "frames_per_sec_max": max(rates),
        "dropped_share": 1 - sum(len(log.ticks) for log in logs) / expected,
        "delay_ms_median": 1000 * float(np.median(delays)),
        "delay_ms_p95": 1000 * float(np.percentile(delays, 95)),
        "delay_ticks_median": fps * float(np.median(delays)),
        "gap_ms_p99": 1000 * float(np.percentile(gaps, 99)),
        "model_ms_median": float(np.median(np.concatenate([log.model_ms for log in logs]))),
        "server_mib": server_mib,
    }
