"""From command-line options to a running server."""

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

from data.games.factory import import_environment_module
from data.index import held_out_split
from play.auth import AuthMiddleware
from play.engine import Engine
from play.follow import CheckpointFollower, latest_checkpoint, load_checkpoint
from play.gallery import Gallery
from play.rollout_pool import RolloutPool
from play.server import PlayServer, uvicorn_server
from play.share import open_tunnel
from training.device import choose_device, describe_device


@dataclass(frozen=True)
class PlayConfig:
    """What to play, and who may play."""

    checkpoint: str = "checkpoints/coinrun-nano"  # checkpoint folder, or user/name on the Hub
    data: Path = Path("samples/coinrun")  # data set with the prompts that dreams start from
    split: str | None = None  # None: test, or val if there is no test split
    port: int = 7860  # 0: any free port
    host: str = "127.0.0.1"  # 0.0.0.0: other machines can connect; needs a password
    share: bool = False  # open a public address through Gradio's tunnel; needs a password
    password_env: str | None = None  # name of the environment variable with the password
    no_password: bool = False  # let in everybody who can connect
    fps: float | None = None  # frames per second; None: the game's own rate
    num_steps: int | None = None  # denoising steps per frame; None: the checkpoint's default
    max_players: int = 4  # who play at the same time; others wait
    follow: bool = False  # --checkpoint is a run that is still training: load its newer weights while playing
    any_game: bool = False  # accept data of another game than the checkpoint's
    env_module: str | None = None  # Python module to import, which registers the data's gym: game
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
    """Serve until interrupted. Raises as `create_server`."""
    server, listening_socket, address = create_server(config)
    print(f"play at {address}  (press Ctrl-C to stop)", flush=True)
    server.run(sockets=[listening_socket])


def create_server(config: PlayConfig) -> tuple[uvicorn.Server, socket.socket, str]:
    """Set up everything but do not serve yet.

    Returns:
        The web server, the socket that it must be given, and its address on this machine.

    Raises:
        ValueError: an option, the checkpoint or the data set is wrong.
        OSError: the address is not available.
    """
    password = find_password(config)
    listening_socket = listen(config.host, config.port)
    engine, gallery = load_engine(config)
    print(f"{engine.describe_memory()}; at most {config.max_players} play at the same time")
    port = listening_socket.getsockname()[1]
    allowed_hosts = {config.host.lower()}
    if config.share:
        public_address = open_tunnel(port)
        allowed_hosts.add(urlsplit(public_address).hostname or "")
        print(f"shared at {public_address}")
    app = AuthMiddleware(PlayServer(engine, gallery, config.max_players).app(), port, password, allowed_hosts)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    host = f"[{host}]" if ":" in host else host
    channels, height, width = engine.config.frame_shape
    web_server = uvicorn_server(app, height * width * channels, config.max_players)
    return web_server, listening_socket, f"http://{host}:{port}"


def load_engine(config: PlayConfig) -> tuple[Engine, Gallery]:
    """Load the checkpoint and the data set.

    Raises:
        ValueError: there is no checkpoint or no data set, or they are of different games.
    """
    import_environment_module(config.env_module)
    device = choose_device(config.device)
    follower, checkpoint = None, config.checkpoint
    if config.follow:
        link = latest_checkpoint(Path(config.checkpoint))
        checkpoint = link.resolve()
        follower = CheckpointFollower(link, checkpoint, device)
    model_thread = ThreadPoolExecutor(1, "model")
    loaded = model_thread.submit(load_checkpoint, checkpoint, device).result()
    pool = RolloutPool(loaded.model, loaded.weights_hash)
    gallery = Gallery(config.data, config.split or held_out_split(config.data), loaded.model, config.any_game)
    num_steps = config.num_steps or pool.config.num_steps
    fps = config.fps or pool.game.fps
    print(f"device: {describe_device(device)}; {loaded.name}, {num_steps} denoising steps, {fps:g} frames/s")
    return Engine(pool, model_thread, loaded.name, fps, num_steps, follower), gallery


def find_password(config: PlayConfig) -> str | None:
    """The password that players must enter; None: they need none.

    Raises:
        ValueError: a password is needed, but there is none.
    """
    if config.password_env:
        password = os.environ.get(config.password_env, "")
        if not password:
            raise ValueError(f"--password-env {config.password_env}: this environment variable is not set")
        return password
    if config.no_password or (is_loopback(config.host) and not config.share):
        return None
    if sys.stdin is not None and sys.stdin.isatty():
        password = getpass.getpass("Password for players: ")
        if password:
            return password
    option = "--share" if config.share else f"--host {config.host}"
    raise ValueError(
        f"{option} lets others connect: set a password with --password-env NAME, or allow everybody with --no-password"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that accepts connections.

    Raises:
        OSError: the port is in use, or the address does not belong to this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port") from None
