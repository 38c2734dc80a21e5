"""From command-line options to a running Gradio app."""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import math
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import torch
import tyro
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute

from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import read_metadata
from dreamrun.data.mixture import Folders
from dreamrun.games.gymnasium import import_environment_module
from dreamrun.games.ranges import Range, check_ranges
from dreamrun.model.game_views import find_game
from dreamrun.model.inference import choose_device, describe_device, free_memory
from dreamrun.model.options import CheckpointOptions, SamplerSettings
from dreamrun.play.engine import Engine
from dreamrun.play.follow import CheckpointFollower, latest_checkpoint, load_checkpoint
from dreamrun.play.gallery import Gallery
from dreamrun.play.playback import max_recording_bytes
from dreamrun.play.rollout_pool import RolloutPool
from dreamrun.play.security import (
    MAX_UPLOAD_BYTES,
    AccessRules,
    Guard,
    Limits,
    check_memory,
    limit_connections,
    password_check,
)
from dreamrun.play.server import PlayServer
from dreamrun.shipped import follow_link

if TYPE_CHECKING:
    from gradio import Blocks


@dataclass(frozen=True, kw_only=True)
class PlayConfig(SamplerSettings, CheckpointOptions):
    """What to play, and who may play."""

    # Data set with the prompts that dreams start from; one for each game to play, of a checkpoint of several.
    data: Folders = Path("samples/coinrun")
    game: str = ""  # of a checkpoint of several: play this one alone
    split: str | None = None  # None: test, or val if there is no test split
    port: Annotated[int, Range(0, 65535)] = 7860  # 0: any free port
    host: str = "127.0.0.1"  # 0.0.0.0: other machines can connect; needs a password
    share: bool = False  # open a public address through Gradio's tunnel; needs a password
    password_env: str | None = None  # name of the environment variable with the password
    no_password: bool = False  # let in everybody who can connect
    fps: Annotated[float | None, Range(1e-3, 120.0)] = None  # frames per second; None: the game's own rate
    seed: tyro.conf.Suppress[int] = 0  # each dream has its own
    max_players: Annotated[int, Range(1, 64)] = 4  # who play at the same time; others wait
    public_host: str | None = None  # host name of a proxy in front of this server
    frame_ancestors: str | None = None  # origins of pages that may show this one in a frame: https://huggingface.co
    follow: bool = False  # --checkpoint is a run that is still training: load its newer weights while playing
    # Python module to import, which registers the data's gym: game, or the WAD of its doom: game.
    env_module: str | None = None

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, in_play=True)
        if not self.folders:
            raise ValueError("data names no data set")
        if self.no_password and self.password_env:
            raise ValueError("--no-password and --password-env contradict each other")

    @property
    def folders(self) -> tuple[Path, ...]:
        """The data sets."""
        return self.data if isinstance(self.data, tuple) else (self.data,)


def launch(config: PlayConfig) -> None:
    """Serve until interrupted by SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the tunnel's program too, as exit handlers run
    with running_app(config) as app:
        print(f"play at {app.address}  (press Ctrl-C to stop)", flush=True)
        threading.Event().wait()


@dataclass(frozen=True)
class RunningApp:
    """A Gradio app that is being served."""

    demo: Blocks
    server: PlayServer
    address: str  # on this machine


@contextlib.contextmanager
def running_app(
    config: PlayConfig, limits: Limits | None = None, free_memory: Callable[[torch.device], int | None] = free_memory
) -> Iterator[RunningApp]:
    """Launch the Gradio app, and close it after the block."""
    limits = limits or Limits()
    password = find_password(config)
    port = find_port(config.host, config.port)
    engines = load_engines(config, limits.follow_secs)
    rollout_bytes = max(engine.pool.bytes_per_rollout() for engine in engines.values())
    recording_bytes = max(
        max_recording_bytes(engine.config.frame_shape, limits.recording_frames) for engine in engines.values()
    )
    memory = check_memory(rollout_bytes, recording_bytes, config.max_players, choose_device(config.device), free_memory)
    print(f"{memory}; at most {config.max_players} play at the same time")
    with tempfile.TemporaryDirectory(prefix="dreamrun-", ignore_cleanup_errors=True) as folder:
        # Gradio reads both variables; the first one when it is imported.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        server = PlayServer(engines, config.max_players, Path(folder), limits)
        rules = access_rules(config, server, password)
        demo = launch_gradio(config, server, rules, port, password)
        try:
            if config.share:
                if demo.share_url is None:
                    raise ValueError("--share: Gradio could not open a tunnel; its message stands above")
                print(f"shared at {demo.share_url}")
                rules.allowed_hosts.add((urlsplit(demo.share_url).hostname or "").lower())
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
            yield RunningApp(demo, server, f"http://{_bracketed(host)}:{port}")
        finally:
            demo.close(verbose=False)


def launch_gradio(
    config: PlayConfig, server: PlayServer, rules: AccessRules, port: int, password: str | None
) -> Blocks:
    """Build the page and serve it."""
    from dreamrun.play.ui import CSS, build_page, theme  # imported here: Gradio takes seconds to import

    demo = build_page(server, public_api=password is None)
    demo.launch(
        server_name=_bracketed(config.host),
        server_port=port,
        share=config.share,
        auth=None if password is None else password_check(password, server.limits.login_secs),
        auth_message="Enter any user name, and the password of this server.",
        app_kwargs={
            "lifespan": server.lifespan,
            "routes": [WebSocketRoute("/socket", server.serve_player)],
            "middleware": [Middleware(Guard, rules=rules)],
        },
        max_file_size=MAX_UPLOAD_BYTES,
        max_threads=8,
        state_session_capacity=100,
        theme=theme(),
        css=CSS,
        footer_links=[],
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
    )
    rules.launched = True
    demo.share = False  # otherwise the page loads Gradio's front end from a foreign host
    image_bytes = max(math.prod(engine.config.frame_shape) for engine in server.engines.values())
    limit_connections(demo.server.config, image_bytes, server.max_connections, server.limits)
    return demo


def access_rules(config: PlayConfig, server: PlayServer, password: str | None) -> AccessRules:
    """The rules of the middleware, before a tunnel's name is known."""
    rules = AccessRules(needs_login=password is not None, public_host=config.public_host or "")
    rules.allowed_hosts |= {config.host.lower(), rules.public_host.lower()} - {""}
    if config.frame_ancestors:
        rules.frame_ancestors = config.frame_ancestors
    if not config.public_host:  # otherwise all players have the proxy's address
        rules.max_requests = server.max_connections // 2
    return rules


def load_engines(config: PlayConfig, follow_secs: float = Limits.follow_secs) -> dict[str, Engine]:
    """Load the checkpoint and the data sets. An engine by the name of its game, in the order of the data sets."""
    import_environment_module(config.env_module)
    device = choose_device(config.device)
    link = latest_checkpoint(Path(config.checkpoint)) if config.follow else None
    checkpoint = follow_link(link).resolve() if link else config.checkpoint
    model_thread = ThreadPoolExecutor(1, "model")
    loaded = model_thread.submit(load_checkpoint, checkpoint, device, config.bf16).result()
    print(f"device: {describe_device(device)}")
    engines: dict[str, Engine] = {}
    for folder in config.folders:
        name = find_game(loaded.model, config.game, read_metadata(folder))
        if name in engines:
            raise ValueError(f"{folder} is of the same game as another data set: give one for each game")
        pool = RolloutPool(loaded.model, loaded.weights_hash, name)
        gallery = Gallery(folder, config.split or held_out_split(folder), pool.model, config.any_game)
        settings, fps = config.resolve(pool.config), config.fps or pool.game.fps
        guided = "" if settings.guidance == 1 else f", guidance {settings.guidance:g}"
        print(f"{name or loaded.name}: {settings.num_steps} denoising steps{guided}, {fps:g} frames/s")
        follower = CheckpointFollower(link, Path(checkpoint), device, follow_secs, config.bf16) if link else None
        engines[name] = Engine(pool, gallery, model_thread, loaded.name, fps, settings, follower)
    return engines


def find_password(config: PlayConfig) -> str | None:
    """The password that players must enter; None: they need none."""
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


def find_port(host: str, port: int) -> int:
    """Check that the server can listen at an address. Returns the port: a free one if `port` is 0."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family) as listening_socket:
            return listening_socket.getsockname()[1]
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror or error}): choose another --port") from None


def _bracketed(host: str) -> str:
    """A host as it stands in an address: IPv6 addresses get brackets."""
    return f"[{host}]" if ":" in host else host
