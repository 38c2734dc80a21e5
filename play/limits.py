"""Limits on connections, so that nobody can keep other players out by holding many of them.

Two things hold a connection: a request that never ends, and one that takes long to answer.

- A request must arrive within a time limit. While all connections are taken, a new one replaces the one that has waited
  longest for the rest of its request. This needs no addresses, so it also works where all players share one.
- One address may run half of all requests at a time. Behind a share tunnel or a proxy on this machine, all connections
  come from 127.0.0.1. Uvicorn believes only these when they name the player's address in `X-Forwarded-For`. If they do
  not, nothing tells players apart, so 127.0.0.1 itself has no limit. Behind a proxy on another machine
  (`--public-host`) there is no limit per address either: the proxy must set it.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from typing import Any

import h11
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dreamrun.play.messages import MAX_MESSAGE_BYTES

HEADERS_SECS = 10.0  # from the start of a connection, or the end of the response before, to the end of the headers
BODY_SECS = 60.0  # from the end of the headers to the end of the body
READ_SECS = 30.0  # a client that reads nothing of a response for so long is disconnected
LOOPBACK = ("127.0.0.1", "::1")
PING_SECS = 4.0  # interval of websocket pings, and time to answer one


class LimitedProtocol(H11Protocol):
    """One HTTP connection of uvicorn, with time limits on what the client sends and reads.

    Args:
        unfinished: connections whose request has not arrived in full, in the order in which they began to wait. All
            connections of a server share it.
    """

    def __init__(self, *arguments: Any, unfinished: dict[LimitedProtocol, None], **options: Any):
        super().__init__(*arguments, **options)
        self._unfinished = unfinished
        self._awaited: type[h11.IDLE] | type[h11.SEND_BODY] | None = None  # h11's state while headers or body are due
        self._request_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch_request()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            oldest = next(iter(self._unfinished), self)
            if oldest is not self:
                oldest.drop()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_SECS, self.drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_read_timer()

    def drop(self) -> None:
        """End the connection now, whatever is still to be sent."""
        self._stop_watching()
        self.connections.discard(self)
        self.transport.abort()

    def _watch_request(self) -> None:
        """Start a time limit when the client begins to owe headers or a body. More bytes of them do not extend it."""
        state, is_websocket = self.conn.their_state, self.transport.get_protocol() is not self
        awaited = state if state in (h11.IDLE, h11.SEND_BODY) and not is_websocket else None
        if awaited is self._awaited or self.transport.is_closing():
            return
        self._stop_waiting()
        if awaited is not None:
            self._awaited = awaited
            self._unfinished[self] = None
            limit_secs = HEADERS_SECS if awaited is h11.IDLE else BODY_SECS
            self._request_timer = self.loop.call_later(limit_secs, self.drop)

    def _stop_waiting(self) -> None:
        self._awaited = None
        self._unfinished.pop(self, None)
        if self._request_timer is not None:
            self._request_timer.cancel()

    def _cancel_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()

    def _stop_watching(self) -> None:
        self._stop_waiting()
        self._cancel_read_timer()


class AddressLimit:
    """ASGI middleware: one address, other than this machine's, runs a limited number of requests and websockets."""

    def __init__(self, app: ASGIApp, max_requests: int):
        self._app, self._max_requests = app, max_requests
        self._running: Counter[str] = Counter()  # by address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = (scope.get("client") or (LOOPBACK[0],))[0]
        if scope["type"] not in ("http", "websocket") or address in LOOPBACK:
            await self._app(scope, receive, send)
            return
        if self._running[address] >= self._max_requests:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})  # not accepted yet, so the browser gets a 403
            else:
                await PlainTextResponse("Too many requests from your address.\n", 429)(scope, receive, send)
            return
        self._running[address] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[address] -= 1
            if not self._running[address]:
                del self._running[address]


def limit_connections(web_server: uvicorn.Config, image_bytes: int, max_connections: int) -> None:
    """Make Gradio's web server accept only small messages, and soon notice who has gone or sends nothing.

    Gradio has no options for this. Uvicorn reads these for each new connection, so they can be set while it runs.

    Args:
        image_bytes: size of an image that a player may send.
        max_connections: at the same time; further requests are answered 503.
    """
    web_server.http_protocol_class = functools.partial(LimitedProtocol, unfinished={})
    web_server.ws_max_size = max(MAX_MESSAGE_BYTES, image_bytes) + 1024
    web_server.ws_ping_interval = web_server.ws_ping_timeout = PING_SECS
    web_server.ws_per_message_deflate = False
    web_server.limit_concurrency = max_connections
    web_server.timeout_graceful_shutdown = 2
