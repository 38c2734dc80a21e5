"""The server: a page, a websocket a player, and one thread for the model.

Every 1/fps seconds the dreams that are due make a frame together, under the keys held at that moment. A tick that
cannot begin before the next one is due is dropped, never queued: what is seen is always the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from play.actions import key_labels
from play.follow import Follower
from play.gallery import NUM_SHOWN, Gallery
from play.messages import MAX_MESSAGE_BYTES, with_pixels
from play.player import MOST_STEPS, Player
from play.recording import MAX_FRAMES, Recording
from play.rollout_pool import RolloutPool

MAX_WAITING = 32  # for a place; who comes later is sent away
IDLE_SECS = 120.0  # without a message, after which a dream pauses
LEAVE_SECS = 300.0  # without a message, after which a place goes to somebody who waits
PING_SECS = 4.0  # a browser is asked whether it is there, and has as long to answer
_PAGE = Path(__file__).parent / "page"
_PAGE_FILES = {"/": "index.html", "/play.css": "play.css", "/play.js": "play.js", "/icon.svg": "icon.svg"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".json": "application/json",
}


class PlayServer:
    """All players of one model.

    Args:
        dreams: on the model.
        model_thread: one thread, in which alone torch has worked so far. A second thread that it works in has OpenMP
            threads of its own; with more of these than cores, all of them wait asleep, and a frame takes half as long
            again.
        gallery: where dreams begin.
        checkpoint_name: what the page and the recordings call the model.
        fps: ticks a second.
        num_steps: denoising steps of a dream that asks for no other number.
        max_players: places; others wait.
        follower: brings newer weights, if there are to be any.
    """

    def __init__(
        self,
        dreams: RolloutPool,
        model_thread: ThreadPoolExecutor,
        gallery: Gallery,
        checkpoint_name: str,
        fps: float,
        num_steps: int,
        max_players: int,
        follower: Follower | None = None,
    ):
        self.dreams, self.gallery, self.checkpoint_name = dreams, gallery, checkpoint_name
        self.config, self.space = dreams.config, dreams.space
        self.fps, self.num_steps, self.max_players = fps, num_steps, max_players
        self._follower = follower
        self._players: list[Player] = []
        self._waiting: deque[Player] = deque()
        self._files: dict[str, tuple[Player, dict[str, bytes]]] = {}  # by a name that cannot be guessed
        self._model_thread = model_thread
        self._encoding = asyncio.Semaphore(1)  # one mp4 at a time
        self._wake = asyncio.Event()
        self._background: set[asyncio.Task] = set()
        self._doze_reason = "Paused, as no key was pressed for a while: press one to go on."
        if self.space.unconditional:
            self._doze_reason = "Paused, as nothing was heard of you for a while."
        self._page = {path: (_PAGE / name).read_bytes() for path, name in _PAGE_FILES.items()}
        self.gallery_pictures = self._gallery_pictures()

    def app(self) -> ASGIApp:
        """The routes, without a guard before them."""
        routes = [Route(path, self._page_file) for path in _PAGE_FILES]
        routes += [Route("/recordings/{place}/{name}", self._recorded_file), WebSocketRoute("/socket", self._connect)]
        return Starlette(routes=routes, lifespan=self._lifespan)

    # What players use.

    async def on_model(self, function: Callable, *arguments: Any) -> Any:
        """Call a function on the model's thread; one after another, in the order of asking."""
        return await asyncio.get_running_loop().run_in_executor(self._model_thread, function, *arguments)

    def background(self, work: Coroutine) -> None:
        """Do something beside everything else."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def wake(self) -> None:
        """Somebody may want frames again."""
        self._wake.set()

    async def encode(self, recording: Recording) -> bytes:
        """An mp4, made in a thread of its own."""
        async with self._encoding:
            return await asyncio.to_thread(recording.mp4, self.space, self.fps)

    def keep_files(self, player: Player, files: dict[str, bytes]) -> str:
        """Have a player's files downloaded, until the next ones or until it leaves; the name of their place."""
        self._drop_files(player)
        place = secrets.token_urlsafe(16)
        if player in self._players:
            self._files[place] = (player, files)
        return place

    def greeting(self) -> dict[str, Any]:
        """What a page has to know of the game."""
        space, (_, height, width) = self.space, self.config.frame_shape
        return {
            "type": "hello",
            "game": self.dreams.game.environment or "a game",
            "checkpoint": self.checkpoint_name,
            "height": height,
            "width": width,
            "channels": self.config.num_channels,
            "fps": self.fps,
            "actions": space.names,
            "keys": key_labels(space),
            "aliases": space.key_aliases,
            "num_steps": self.num_steps,
            "most_steps": MOST_STEPS,
            "num_records": len(self.gallery),
        }

    def _gallery_pictures(self) -> bytes:
        """The first records, each at its default moment: the same for everybody."""
        shown = range(min(NUM_SHOWN, len(self.gallery)))
        moments = [self.gallery.default_moment(record_id) for record_id in shown]
        pictures = [self.gallery.picture(record_id, moment) for record_id, moment in zip(shown, moments, strict=True)]
        return with_pixels({"type": "gallery", "moments": moments}, pictures)

    # Routes.

    async def _page_file(self, request: Request) -> Response:
        path = request.url.path
        return Response(self._page[path], media_type=_TYPES[Path(_PAGE_FILES[path]).suffix])

    async def _recorded_file(self, request: Request) -> Response:
        """From memory: no path of the disk is ever made from what a browser says."""
        _, files = self._files.get(request.path_params["place"], (None, {}))
        name = request.path_params["name"]
        if name not in files:
            return PlainTextResponse("There is no such recording (any more).\n", 404)
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=headers)

    async def _connect(self, socket: WebSocket) -> None:
        await socket.accept()
        player = Player(self, socket)
        if len(self._players) < self.max_players:
            self._let_in(player)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(player)
            player.say("wait", ahead=len(self._waiting) - 1)
        else:
            await socket.close(1013, "too many are waiting already")
            return
        try:
            await player.run()
        finally:
            self._remove(player)
            self.background(player.leave())

    def _let_in(self, player: Player) -> None:
        self._players.append(player)
        player.enter()

    def _remove(self, player: Player) -> None:
        """Its place goes to the first of those who wait."""
        if player in self._players:
            self._players.remove(player)
        else:
            with contextlib.suppress(ValueError):
                self._waiting.remove(player)
        self._drop_files(player)
        while self._waiting and len(self._players) < self.max_players:
            self._let_in(self._waiting.popleft())
        for ahead, waiting in enumerate(self._waiting):
            waiting.say("wait", ahead=ahead)

    def _drop_files(self, player: Player) -> None:
        self._files = {place: kept for place, kept in self._files.items() if kept[0] is not player}

    # What goes on all the time.

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        for work in (self._tick(), self._look_after(), self._follow()):
            self.background(work)
        yield
        for task in self._background:
            task.cancel()
        self._model_thread.shutdown(wait=False, cancel_futures=True)

    async def _tick(self) -> None:
        """Frames at a fixed rate. Tick k is due k / fps seconds after the start; of late ones the newest is made."""
        loop, period = asyncio.get_running_loop(), 1.0 / self.fps
        start, tick = loop.time(), 0
        while True:
            if not any(player.active for player in self._players):
                self._wake.clear()
                await self._wake.wait()
                start, tick = loop.time(), 0
            await asyncio.sleep(start + tick * period - loop.time())
            due = [player for player in self._players if player.due(tick)]
            if due:
                await self._make_frames(due, tick)
            tick = max(tick + 1, int((loop.time() - start) / period))

    async def _make_frames(self, due: list[Player], tick: int) -> None:
        jobs = [(player.dream, player.action, player.keys_number) for player in due]
        begun = time.perf_counter()
        try:
            results = await self.on_model(self.dreams.step, [(dream, action) for dream, action, _ in jobs])
        except Exception:  # whatever it is, the server goes on for the others
            traceback.print_exc()
            for player in due:
                player.pause(True, "The model failed; the server's log says why. Start a fresh dream.")
            return
        told = {"tick": tick, "ms": round(1000 * (time.perf_counter() - begun), 1), "together": len(due)}
        for player, (dream, _, keys_number), result in zip(due, jobs, results, strict=True):
            player.show(dream, result, keys_number, **told)

    async def _look_after(self) -> None:
        """Pause dreams that nobody plays, and give their places to those who wait."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for player in list(self._players):
                idle_secs = now - player.last_message
                if player.active and idle_secs > IDLE_SECS:
                    player.pause(True, self._doze_reason)
                if self._waiting and idle_secs > LEAVE_SECS:
                    player.close("your place went to somebody who was waiting")

    async def _follow(self) -> None:
        """Take newer weights over, between two frames."""
        while self._follower is not None:
            await asyncio.sleep(self._follower.POLL_SECS)
            passing = ThreadPoolExecutor(1)  # its OpenMP threads end with it
            newer = await asyncio.get_running_loop().run_in_executor(passing, self._follower.newer)
            passing.shutdown()
            if newer is None:
                continue
            try:
                await self.on_model(self.dreams.swap_weights, newer.model, newer.weights)
            except ValueError as error:
                print(f"warning: {newer.name} cannot be taken over: {error}", file=sys.stderr)
                continue
            self.checkpoint_name = newer.name
            print(f"now dreaming with {newer.name}")
            for player in self._players:
                player.say("weights", checkpoint=newer.name)

    def _done(self, task: asyncio.Task) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            traceback.print_exception(task.exception())


def uvicorn_server(app: ASGIApp, frame_bytes: int, max_players: int) -> uvicorn.Server:
    """A web server with limits that suit a game: small messages, quick to notice who has gone."""
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=max(MAX_MESSAGE_BYTES, frame_bytes) + 1024,
        ws_ping_interval=PING_SECS,
        ws_ping_timeout=PING_SECS,
        ws_per_message_deflate=False,
        limit_concurrency=max_players + MAX_WAITING + 64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    return uvicorn.Server(config)


def memory_line(dreams: RolloutPool, max_players: int) -> str:
    """What players cost, for the log."""
    dream, frame = dreams.bytes_per_rollout, int(np.prod(dreams.config.frame_shape))
    recording = 2 * MAX_FRAMES * frame
    return (
        f"memory: a player takes {dream / 2**20:.1f} MiB, while recording up to {recording / 2**20:.0f} MiB more; "
        f"{max_players} may play at once"
    )
