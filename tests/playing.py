"""A play server in this process, and clients that play on it through its websocket."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from recordings import play, read_video
from tiny import SMALLEST, random_model
from websockets.sync.client import connect

from dreamrun.data import EpisodeWriter
from dreamrun.data.metadata import read_metadata
from dreamrun.games.game import combine_games
from dreamrun.games.space import ActionSpace
from dreamrun.play.launch import PlayConfig, RunningApp, running_app
from dreamrun.play.messages import unpack_pictures
from dreamrun.play.security import Limits
from dreamrun.training.setup import fit_config_to_data

TIMEOUT_SECS = 60.0
_apps: dict[str, RunningApp] = {}  # by address


def random_checkpoint(folder: Path, data: Path, seed: int = 0) -> Path:
    """Save random weights that fit a data set; returns the folder."""
    metadata = read_metadata(data)
    random_model(fit_config_to_data(SMALLEST, metadata), seed, metadata).save_pretrained(folder)
    return folder


def config_of_own_game(folder: Path, space: ActionSpace) -> PlayConfig:
    """Options to play random weights that fit a data set that a user's own program writes.

    The game is that of `recordings` at 96x64, with the actions `tiny.CONTROLS` or without actions.
    """
    for seed, split in enumerate(("train", "train", "test", "test")):
        with EpisodeWriter(folder / "set", space, split=split, environment="mygame") as writer:
            for step, (frame, speed) in enumerate(zip(*play(60, seed=seed), strict=True)):
                vector = [speed < 0, speed > 0, step % 5 == 0, 0, speed / 20, 0]
                writer.add(frame, np.array(vector, np.float32) if not space.discrete else 0)
    checkpoint = random_checkpoint(folder / "random", folder / "set")
    return PlayConfig(checkpoint=str(checkpoint), data=folder / "set", port=0, num_steps=1)


def several_games_checkpoint(folder: Path, *sets: Path) -> Path:
    """Save random weights of the games of several data sets, which are told in words; returns the folder."""
    game, _ = combine_games([read_metadata(data) for data in sets], text=True)
    random_model(replace(SMALLEST, num_actions=3, words=True), game=game).save_pretrained(folder)
    return folder


@contextlib.contextmanager
def serving(config: PlayConfig, **limits) -> Iterator[str]:
    """Run a server while the block runs; gives its address. `limits` are some of `Limits`."""
    # Restores Gradio's folder: a server around this one looks for its files there.
    with patch.dict(os.environ), running_app(config, Limits(**limits)) as app:
        _apps[app.address] = app
        try:
            yield app.address
        finally:
            del _apps[app.address]


def running(address: str) -> RunningApp:
    """The app of this process that has an address."""
    return _apps[address]


def recorded_file(address: str, recorded: dict, name: str) -> bytes:
    """A file of a "recorded" message. Raises KeyError if it is not there any more."""
    return running(address).server.recorded_files(recorded["place"])[name]


def recorded_video(address: str, recorded: dict) -> np.ndarray:
    """The frames of the video of a "recorded" message."""
    return read_video(io.BytesIO(recorded_file(address, recorded, "dream.mp4")))


@dataclass
class Frame:
    """A binary message: pictures and their header."""

    header: dict
    pictures: np.ndarray  # uint8 (1 or 2, H, W, C)


class Client:
    """One player."""

    def __init__(self, address: str, **options):
        options = {"origin": address, "proxy": None, "compression": None, "open_timeout": TIMEOUT_SECS, **options}
        options.setdefault("close_timeout", 1.0)  # a client that has unread frames does not see the answer
        self.socket = connect(f"{address.replace('http', 'ws', 1)}/socket", **options)
        self.hello: dict = {}

    def join(self) -> Client:
        """Wait until there is a place."""
        self.hello = self.wait_for("hello")
        return self

    def send(self, message_type: str, **fields) -> None:
        self.socket.send(json.dumps({"type": message_type, **fields}))

    def receive(self, timeout: float = TIMEOUT_SECS) -> dict | Frame:
        message = self.socket.recv(timeout)
        if isinstance(message, str):
            return json.loads(message)
        header, pixels = unpack_pictures(message)
        shape = (header["pictures"], self.hello["height"], self.hello["width"], self.hello["channels"])
        return Frame(header, np.frombuffer(pixels, np.uint8).reshape(shape))

    def wait_for(
        self, message_type: str, on_other: Callable[[dict | Frame], None] = lambda message: None
    ) -> dict | Frame:
        """The next message of a type ("frame" is a binary message). `on_other` gets those before it."""
        end = time.monotonic() + TIMEOUT_SECS
        while time.monotonic() < end:
            message = self.receive(max(0.1, end - time.monotonic()))
            if (message.header if isinstance(message, Frame) else message)["type"] == message_type:
                return message
            on_other(message)
        raise TimeoutError(f"no message of type {message_type}")

    def start(self, record: int | None = 0, **fields) -> dict:
        """Start a rollout; returns the "started" message."""
        self.send("start", record=record, **fields)
        started = self.wait_for("started")
        self.first_frame = self.wait_for("frame")
        return started

    def step(self, held: tuple[str, ...] = ()) -> Frame:
        """Advance one frame with these keys."""
        self.send("keys", held=list(held), number=1)
        self.send("step")
        return self.wait_for("frame")

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def can_play(address: str, **options) -> bool:
    """Whether a new client gets a place and a frame."""
    with Client(address, **options) as client:
        client.join().start()
        return client.step(("UP",)).header["action"] == 1


def record(client: Client, num_frames: int, keys=("UP", "DOWN")) -> tuple[dict, list[Frame]]:
    """Record some single steps; returns the "recorded" message and the frames."""
    client.send("record", on=True)
    client.wait_for("recording")
    frames = [client.step((keys[number % len(keys)],)) for number in range(num_frames)]
    client.send("record", on=False)
    return client.wait_for("recorded"), frames


def raw_connection(address: str, data: bytes = b"", source: str = "127.0.0.1", small: bool = False) -> socket.socket:
    """A connection from an address of this machine that sends some bytes; a small one has no room for an answer."""
    host, port = address.removeprefix("http://").split(":")
    raw = socket.socket()
    raw.bind((source, 0))
    if small:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    else:
        raw.settimeout(10)
    raw.connect((host, int(port)))
    raw.sendall(data)
    return raw


def largest_asset() -> Path:
    """The largest file that the server gives to everybody, under /assets/."""
    import gradio  # here, as it takes seconds

    assets = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    return max(assets.iterdir(), key=lambda path: path.stat().st_size)


def request(
    address: str, path: str, method: str = "GET", body: bytes | None = None, **headers
) -> tuple[int, dict, bytes]:
    """Status, headers and body of a response. The path is sent exactly as given."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, names)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()
