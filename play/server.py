"""The web server: routes for the page, the websocket and recordings, and the places of players with a waiting list."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from play.connection import Connection
from play.engine import Engine
from play.gallery import Gallery
from play.messages import MAX_MESSAGE_BYTES
from play.player import Player

MAX_WAITING = 32  # players in the waiting list; more are rejected
IDLE_SECS = 120.0  # without a message; then a player's rollout is paused
RELEASE_SECS = 300.0  # without a message; then a player's place is given to one who waits
PING_SECS = 4.0  # interval of websocket pings, and time to answer one
_PAGE = Path(__file__).parent / "page"
_PAGE_FILES = {"/": "index.html", "/play.css": "play.css", "/play.js": "play.js", "/icon.svg": "icon.svg"}
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".json": "application/json",
}


class PlayServer:
    """Routes and places.

    Args:
        engine: generates frames for the players.
        gallery: prompts that players start from.
        max_players: number of places; further players wait.
    """

    def __init__(self, engine: Engine, gallery: Gallery, max_players: int):
        self.engine, self.gallery, self.max_players = engine, gallery, max_players
        self._players: list[Player] = []  # those with a place
        self._waiting: deque[Player] = deque()
        self._page_files = {path: (_PAGE / name).read_bytes() for path, name in _PAGE_FILES.items()}
        self._idle_message = "Paused: you have not pressed a key for a while. Press one to continue."
        if engine.space.unconditional:
            self._idle_message = "Paused: your browser has sent nothing for a while."

    def app(self) -> ASGIApp:
        """The application, without authentication."""
        routes = [Route(path, self._serve_page_file) for path in _PAGE_FILES]
        routes.append(Route("/recordings/{recording_id}/{name}", self._serve_recording))
        routes.append(WebSocketRoute("/socket", self._serve_player))
        return Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.engine.running():
            self.engine.run_in_background(self._check_idle_players())
            yield

    # Routes.

    async def _serve_page_file(self, request: Request) -> Response:
        path = request.url.path
        return Response(self._page_files[path], media_type=_MEDIA_TYPES[Path(_PAGE_FILES[path]).suffix])

    async def _serve_recording(self, request: Request) -> Response:
        """Serve a file from memory: no path on disk is ever built from a request."""
        recording_id, name = request.path_params["recording_id"], request.path_params["name"]
        owner = next((player for player in self._players if player.recording_id == recording_id), None)
        if owner is None or name not in owner.recorded_files:
            return PlainTextResponse("This recording does not exist, or its player has left.\n", 404)
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(owner.recorded_files[name], media_type=_MEDIA_TYPES[Path(name).suffix], headers=headers)

    async def _serve_player(self, socket: WebSocket) -> None:
        await socket.accept()
        player = Player(self.engine, self.gallery, Connection(socket))
        if len(self._players) < self.max_players:
            self._admit(player)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append(player)
            player.connection.send("wait", ahead=len(self._waiting) - 1)
        else:
            await socket.close(1013, "too many players are waiting")
            return
        try:
            await player.run()
        finally:
            self._remove(player)
            player.leave()

    # Places.

    def _admit(self, player: Player) -> None:
        self._players.append(player)
        player.admit()

    def _remove(self, player: Player) -> None:
        """Remove a player who has left, and admit those at the front of the waiting list."""
        if player in self._players:
            self._players.remove(player)
        elif player in self._waiting:
            self._waiting.remove(player)
        while self._waiting and len(self._players) < self.max_players:
            self._admit(self._waiting.popleft())
        for ahead, waiting in enumerate(self._waiting):
            waiting.connection.send("wait", ahead=ahead)

    async def _check_idle_players(self) -> None:
        """Pause idle rollouts, and give the places of idle players to those who wait."""
        while True:
            await asyncio.sleep(1.0)
            for player in list(self._players):
                if player.active and player.idle_secs > IDLE_SECS:
                    player.pause(True, self._idle_message)
                if self._waiting and player.idle_secs > RELEASE_SECS:
                    player.connection.close("another player was waiting for your place")


def uvicorn_server(app: ASGIApp, image_bytes: int, max_players: int) -> uvicorn.Server:
    """A web server that accepts only small messages and soon notices who has gone.

    Args:
        image_bytes: size of an image that a player may send.
    """
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=max(MAX_MESSAGE_BYTES, image_bytes) + 1024,
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
