"""What a player gets, measured from outside: a server in a process of its own, players at its socket."""

from __future__ import annotations

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

from benchmarks.machine import random_model
from data.metadata import read_metadata
from model import PRESETS
from play.messages import unpack_pictures
from training.setup import fit_config_to_data

_START_SECS = 120.0  # in which a server must have begun
_WARM_UP_SECS = 2.0  # not measured


@dataclass(frozen=True)
class PlayingConfig:
    """Playing, through the server's own socket."""

    preset: str = "nano"  # random weights: they cost what trained ones do
    checkpoint: Path | None = None  # in place of a preset
    data: Path = Path("samples/coinrun")
    split: str = "test"
    players: int = 1
    seconds: float = 120.0
    num_steps: int | None = None  # denoising steps a frame; None: as the network says

    def __post_init__(self):
        if self.players < 1 or self.seconds <= 0:
            raise ValueError(f"{self.players} players for {self.seconds} seconds: both must be above 0")
        if not self.checkpoint and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}: choose {', '.join(PRESETS)}")


@dataclass
class Seen:
    """What one player noted."""

    fps: float = 0.0
    first_frame: float = 0.0  # when it came, by time.perf_counter()
    ticks: list[int] = field(default_factory=list)  # of the frames that came
    times: list[float] = field(default_factory=list)  # when, in seconds
    model_ms: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)  # seconds from a key message to the first frame that heeds it


def measure(config: PlayingConfig) -> dict:
    """Frames, drops and delays of some players at once, and how long the start took.

    Raises:
        ValueError: the server could not be started, or there was too little to measure.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = config.checkpoint or Path(folder) / config.preset
        if not config.checkpoint:
            random_model(fit_config_to_data(PRESETS[config.preset], read_metadata(config.data))).save_pretrained(
                checkpoint
            )
        options = ["--checkpoint", checkpoint, "--data", config.data, "--split", config.split, "--port", 0]
        options += ["--max-players", config.players]
        options += ["--num-steps", config.num_steps] if config.num_steps else []
        begun = time.perf_counter()
        with running_server(*options) as (process, address):
            seen = asyncio.run(_play_together(address, config))
            resident = _resident_mib(process.pid)
    return _results(config, seen, begun, resident)


@contextlib.contextmanager
def running_server(*options) -> Iterator[tuple[subprocess.Popen, str]]:
    """`python -m scripts.play` in a process of its own; it and its address, as soon as it says where it is.

    Raises:
        ValueError: it ended instead; with what it said.
    """
    command = [sys.executable, "-m", "scripts.play", *map(str, options)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            found = None
            while found is None and (line := process.stdout.readline()):
                found = re.search(r"play at http://(\S+)", line)
            if found is None:
                errors.seek(0)
                raise ValueError(errors.read().strip().removeprefix("error: ") or "the server ended without a word")
            yield process, found[1]
        finally:
            process.terminate()
            process.communicate()


async def _play_together(address: str, config: PlayingConfig) -> list[Seen]:
    return await asyncio.gather(*(_play(address, config.seconds, player) for player in range(config.players)))


async def _play(address: str, seconds: float, player: int) -> Seen:
    """Press random keys at random times."""
    rng, seen = np.random.default_rng(player), Seen()
    async with websockets.connect(
        f"ws://{address}/socket", origin=f"http://{address}", proxy=None, compression=None, open_timeout=_START_SECS
    ) as socket:
        hello = json.loads(await socket.recv())
        seen.fps, keys = hello["fps"], list(hello["keys"])
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
                seen.first_frame = first = first or now
                heeded = [number for number in sent if number <= header["keys"]]
                delays = [now - sent.pop(number) for number in heeded]
                if now >= first + _WARM_UP_SECS:
                    seen.ticks.append(header["tick"])
                    seen.times.append(now)
                    seen.model_ms.append(header["ms"])
                    seen.delays += delays
        pressing.cancel()
    return seen


async def _press(socket: websockets.ClientConnection, keys: list[str], rng: np.random.Generator, sent: dict) -> None:
    for number in range(1, 2**31):
        await asyncio.sleep(float(rng.uniform(0.15, 0.6)))
        held = [key for key in keys if rng.random() < 0.4]
        sent[number] = time.perf_counter()
        await socket.send(json.dumps({"type": "keys", "held": held, "number": number}))


def _results(config: PlayingConfig, seen: list[Seen], begun: float, resident: float) -> dict:
    if not all(len(player.times) > 1 and player.delays for player in seen):
        raise ValueError(f"too little came in {config.seconds:g} seconds to be measured: give more --seconds")
    fps = seen[0].fps
    rates = [(len(player.times) - 1) / (player.times[-1] - player.times[0]) for player in seen]
    expected = sum(player.ticks[-1] - player.ticks[0] + 1 for player in seen)
    delays = np.concatenate([player.delays for player in seen])
    gaps = np.concatenate([np.diff(player.times) for player in seen])
    return {
        "network": str(config.checkpoint or config.preset),
        "players": config.players,
        "seconds": config.seconds,
        "fps": fps,
        "secs_to_first_frame": min(player.first_frame for player in seen) - begun,
        "frames_per_sec_worst": min(rates),
        "frames_per_sec_best": max(rates),
        "dropped_share": 1 - sum(len(player.ticks) for player in seen) / expected,
        "delay_ms_median": 1000 * float(np.median(delays)),
        "delay_ms_p95": 1000 * float(np.percentile(delays, 95)),
        "delay_ticks_median": fps * float(np.median(delays)),
        "gap_ms_p99": 1000 * float(np.percentile(gaps, 99)),
        "model_ms_median": float(np.median(np.concatenate([player.model_ms for player in seen]))),
        "server_mib": resident,
    }


def _resident_mib(process_id: int) -> float:
    (line,) = (x for x in Path(f"/proc/{process_id}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
