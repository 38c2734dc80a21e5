"""From options to a running server."""

from __future__ import annotations

import getpass
import ipaddress
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import uvicorn

from data.index import held_out_split
from play.auth import AuthMiddleware
from play.follow import Follower, latest_checkpoint, load_weights
from play.gallery import Gallery
from play.rollout_pool import RolloutPool
from play.server import PlayServer, memory_line, uvicorn_server
from play.share import share
from training.device import choose_device, describe_device


@dataclass(frozen=True)
class PlayConfig:
    """What to play, and for whom."""

    checkpoint: str = "checkpoints/coinrun-nano"  # a checkpoint folder, or user/name on the Hub
    data: Path = Path("samples/coinrun")  # the data set that dreams begin from
    split: str | None = None  # None: test, or val where there is no test
    port: int = 7860  # 0: any that is free
    host: str = "127.0.0.1"  # 0.0.0.0: other machines may come in, with a password
    share: bool = False  # a public address, through Gradio's tunnel; with a password
    password_env: str | None = None  # the environment variable that holds the password
    no_password: bool = False  # let in everybody who can reach it
    fps: float | None = None  # frames a second; None: the game's own
    num_steps: int | None = None  # denoising steps a frame; None: as the checkpoint says
    max_players: int = 4  # at once; others wait until a place is free
    follow: bool = False  # --checkpoint is a run that is still training: go over to its newer weights
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}: it must lie in 0 to 65535")
        if self.fps is not None and not 0 < self.fps <= 120:
            raise ValueError(f"fps is {self.fps}: it must be above 0, and at most 120")
        if self.num_steps is not None and not 1 <= self.num_steps <= 32:
            raise ValueError(f"num_steps is {self.num_steps}: it must lie in 1 to 32")
        if not 1 <= self.max_players <= 64:
            raise ValueError(f"max_players is {self.max_players}: it must lie in 1 to 64")
        if self.no_password and self.password_env:
            raise ValueError("--no-password and --password-env contradict each other")


def launch(config: PlayConfig) -> None:
    """Serve until interrupted. Raises as `prepare`."""
    server, listening, address = prepare(config)
    print(f"play at {address}  (Ctrl-C ends it)", flush=True)
    server.run(sockets=[listening])


def prepare(config: PlayConfig) -> tuple[uvicorn.Server, socket.socket, str]:
    """All but the running of it: the server, the socket that it is to listen on, and its address on this machine.

    Raises:
        ValueError: whatever a user can get wrong.
        OSError: the address cannot be listened on.
    """
    password = find_password(config)
    listening = listen(config.host, config.port)
    server = make_server(config)
    port = listening.getsockname()[1]
    hosts = {config.host.lower()}
    if config.share:
        public = share(port)
        hosts.add(urlsplit(public).hostname or "")
        print(f"shared at {public}")
    guard = AuthMiddleware(server.app(), port, password, hosts)
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    name = f"[{name}]" if ":" in name else name
    height, width = server.config.frame_height, server.config.frame_width
    image_bytes = height * width * server.config.num_channels
    return uvicorn_server(guard, image_bytes, config.max_players), listening, f"http://{name}:{port}"


def make_server(config: PlayConfig) -> PlayServer:
    """Load what is needed.

    Raises:
        ValueError: no checkpoint, no data, or data of another game.
    """
    device = choose_device(config.device)
    follower, checkpoint = None, config.checkpoint
    if config.follow:
        link = latest_checkpoint(Path(config.checkpoint))
        checkpoint = link.resolve()
        follower = Follower(link, checkpoint, device)
    model_thread = ThreadPoolExecutor(1, "model")
    loaded = model_thread.submit(load_weights, checkpoint, device).result()
    dreams = RolloutPool(loaded.model, loaded.weights)
    gallery = Gallery(config.data, config.split or held_out_split(config.data), loaded.model)
    num_steps = config.num_steps or dreams.config.num_steps
    fps = config.fps or dreams.game.fps
    print(f"device: {describe_device(device)}; {loaded.name}, {num_steps} denoising steps, {fps:g} frames/s")
    print(memory_line(dreams, config.max_players))
    return PlayServer(dreams, model_thread, gallery, loaded.name, fps, num_steps, config.max_players, follower)


def find_password(config: PlayConfig) -> str | None:
    """The password that is asked of players; None: none is.

    Raises:
        ValueError: one is needed, and there is none.
    """
    if config.password_env:
        password = os.environ.get(config.password_env, "")
        if not password:
            raise ValueError(f"--password-env {config.password_env}: that environment variable is not set")
        return password
    if config.no_password or (is_loopback(config.host) and not config.share):
        return None
    if sys.stdin is not None and sys.stdin.isatty():
        password = getpass.getpass("Password for players: ")
        if password:
            return password
    what = "--share" if config.share else f"--host {config.host}"
    raise ValueError(f"{what} lets others in: give a password by --password-env NAME, or let in all by --no-password")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for connections.

    Raises:
        OSError: the port is taken, or the address is not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port") from None
    return listening
