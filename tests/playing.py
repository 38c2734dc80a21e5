"""A play server in this process, and players at its socket."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from recordings import play
from tiny import SMALLEST, random_model
from websockets.sync.client import connect

from data import EpisodeWriter
from data.actions import ActionSpace
from data.metadata import read_metadata
from play.launch import PlayConfig, create_server
from play.messages import unpack_pictures
from training.setup import fit_config_to_data, game_info

WAIT_SECS = 20.0


def random_checkpoint(folder: Path, data: Path, seed: int = 0) -> Path:
    """Random weights that fit a data set."""
    metadata = read_metadata(data)
    random_model(fit_config_to_data(SMALLEST, metadata), seed, game_info(metadata)).save_pretrained(folder)
    return folder


def own_game(folder: Path, space: ActionSpace) -> tuple[Path, Path]:
    """Some play of the game of `recordings` at 96x64, with `tiny.CONTROLS` or without actions, as a program of one's
    own writes it; and a network of random weights that fits it."""
    for seed, split in enumerate(("train", "train", "test", "test")):
        with EpisodeWriter(folder / "set", space, split=split, environment="mygame") as writer:
            for step, (frame, speed) in enumerate(zip(*play(60, seed=seed), strict=True)):
                vector = [speed < 0, speed > 0, step % 5 == 0, 0, speed / 20, 0]
                writer.add(frame, np.array(vector, np.float32) if not space.discrete else 0)
    return folder / "set", random_checkpoint(folder / "random", folder / "set")


@contextlib.contextmanager
def serving(config: PlayConfig) -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    server, listening, address = create_server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(WAIT_SECS)
        assert not thread.is_alive()


@dataclass
class Frame:
    """A picture that came, and what was said of it."""

    header: dict
    pictures: np.ndarray  # uint8 (1 or 2, H, W, C)


class Client:
    """One player."""

    def __init__(self, address: str, **options):
        options = {"origin": address, "proxy": None, "compression": None, "open_timeout": WAIT_SECS, **options}
        self.socket = connect(f"{address.replace('http', 'ws', 1)}/socket", **options)
        self.hello: dict = {}

    def enter(self) -> Client:
        """Wait until there is a place."""
        self.hello = self.until("hello")
        return self

    def send(self, kind: str, **fields) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def receive(self, timeout: float = WAIT_SECS) -> dict | Frame:
        message = self.socket.recv(timeout)
        if isinstance(message, str):
            return json.loads(message)
        header, pixels = unpack_pictures(message)
        shape = (header["pictures"], self.hello["height"], self.hello["width"], self.hello["channels"])
        return Frame(header, np.frombuffer(pixels, np.uint8).reshape(shape))

    def until(self, kind: str, meanwhile: Callable[[dict | Frame], None] = lambda message: None) -> dict | Frame:
        """The next message of a type ("frame" and "gallery" are types of pictures)."""
        end = time.monotonic() + WAIT_SECS
        while time.monotonic() < end:
            message = self.receive(max(0.1, end - time.monotonic()))
            if (message.header if isinstance(message, Frame) else message)["type"] == kind:
                return message
            meanwhile(message)
        raise TimeoutError(f"no {kind}")

    def start(self, record: int | None = 0, **fields) -> dict:
        self.send("start", record=record, **fields)
        started = self.until("started")
        self.first = self.until("frame")
        return started

    def step(self, held: tuple[str, ...] = ()) -> Frame:
        """One frame, with these keys."""
        self.send("keys", held=list(held), number=1)
        self.send("step")
        return self.until("frame")

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()
