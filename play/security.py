"""Who may connect to the server, and how much of it one client may take.

Gradio's own `auth` shows the login page, checks the password and keeps the cookie. `Guard` closes what it leaves open:
- routes of Gradio that ask for no login, and websockets;
- requests from other web pages, which a player's browser sends with the cookie (cross-site websocket hijacking);
- foreign host names that point to this machine (DNS rebinding);
- routes that the page does not need, such as Gradio's proxy;
- request bodies of any size, or of a size that is not known in advance.

Nobody keeps other players out by holding connections:
- A request must arrive within a time limit. While all connections are taken, a new one replaces the one that has waited
  longest for the rest of its request. This needs no addresses, so it also works where all players share one.
- One address may run half of all requests at a time. Behind a share tunnel or a proxy on this machine, all connections
  come from 127.0.0.1. Uvicorn believes only these when they name the player's address in `X-Forwarded-For`. If they do
  not, nothing tells players apart, so 127.0.0.1 itself has no limit. Behind a proxy on another machine
  (`--public-host`) there is no limit per address either: the proxy must set it.
"""

import asyncio
import functools
import hmac
import ipaddress
import re
import socket
from asyncio import TimerHandle
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11
import torch
import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dreamrun.play.messages import MAX_MESSAGE_BYTES

MAX_LOGIN_BYTES = 4096
MAX_EVENT_BYTES = 256 * 2**10  # of any other request, except an upload
MAX_UPLOAD_BYTES = 8 * 2**20
LOOPBACK = ("127.0.0.1", "::1")
PING_SECS = 4.0  # interval of websocket pings, and time to answer one

_STATIC_ROUTES = re.compile(r"/(assets|static|svelte)/.+|/(theme\.css|favicon\.ico|robots\.txt)")
_LOGIN_ROUTES = re.compile(r"/|/login/?")
_STARTUP_ROUTE = "/gradio_api/startup-events"  # called once by `demo.launch` itself
# What the page and gradio_client use.
_PLAYER_ROUTES = re.compile(
    r"/config/?|/gradio_api/(info/?|app_id/?|login_check/?|queue/(join|data)|upload|upload_progress|cancel|reset/?"
    r"|heartbeat/[^/]+|call/.+|file=(?!https?:).+)"
)
_WEBSOCKET_ROUTE = "/socket"
# Gradio's page has inline scripts and styles, and evaluates the JavaScript of its event listeners.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; media-src 'self' blob: data:; font-src 'self' data:; "
    "connect-src 'self' blob: data:; worker-src 'self' blob:; manifest-src 'self'; form-action 'self'; "
    "base-uri 'self'; frame-ancestors {frame_ancestors}"
)


@dataclass(frozen=True)
class Limits:
    """Times and sizes that the server keeps to."""

    max_waiting: int = 32  # players in the waiting list; more are rejected
    idle_secs: float = 120.0  # without a message; then a player's rollout is paused
    release_secs: float = 300.0  # without a message; then a player's place is given to one who waits
    login_secs: float = 0.5  # before each answer to a login; one is checked at a time, which slows guessing down
    request_secs: float = 60.0  # from the start of a connection, or the end of a response, to the end of a request
    read_secs: float = 30.0  # a client that reads nothing of a response for so long is disconnected
    send_secs: float = 10.0  # a browser that takes no message for so long is disconnected
    recording_frames: int = 1800  # two minutes at 15 frames/s; then a recording stops
    follow_secs: float = 2.0  # between two looks for newer weights of a run that is followed
    renew_secs: float = 5.0  # between two updates of its curves on the page


@dataclass
class AccessRules:
    """Who may connect. The launcher changes the rules while the server starts."""

    needs_login: bool
    # Host names to accept besides all IP addresses.
    allowed_hosts: set[str] = field(default_factory=lambda: {"localhost", socket.gethostname().lower()})
    public_host: str = ""  # host name in the Origin header behind a proxy that changes the Host header
    frame_ancestors: str = "'none'"  # origins of pages that may show this one in a frame
    max_requests: int | None = None  # of one address at a time, other than this machine's; None: any number
    launched: bool = False

    def is_allowed_host(self, headers: Headers) -> bool:
        """Whether the Host header is an IP address or an allowed name."""
        try:
            name = (urlsplit(f"//{headers.get('host', '')}").hostname or "").lower()
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self.allowed_hosts

    def is_same_origin(self, headers: Headers, required: bool) -> bool:
        """Whether the Origin header names this server. Without the header: whether it is not `required`."""
        origin = headers.get("origin")
        if origin is None:
            return not required
        host = origin.lower().partition("://")[2]
        return bool(host) and host in (headers.get("host", "").lower(), self.public_host.lower())


class Guard:
    """ASGI middleware in front of every route: refuses requests without permission, and passes the others on.

    It is given to Gradio as `launch(app_kwargs={"middleware": [Middleware(Guard, rules=rules)]})`.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules):
        self._app, self._rules = app, rules
        self._running: Counter[str] = Counter()  # requests and websockets by address
        self._headers = {
            "content-security-policy": _CONTENT_SECURITY_POLICY.format(frame_ancestors=rules.frame_ancestors),
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",  # "no-referrer" would make browsers send "Origin: null" with the login
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        address = (scope.get("client") or (LOOPBACK[0],))[0]
        refusal = await self._refusal(scope, address)
        if scope["type"] == "http":
            is_static = _STATIC_ROUTES.fullmatch(scope["path"]) is not None
            send = _add_headers(send, self._headers if is_static else {**self._headers, "cache-control": "no-store"})
        elif refusal is not None:
            await send({"type": "websocket.close", "code": 1008})  # not accepted yet, so the browser gets a 403
            return
        if refusal is not None:
            status, text = refusal
            await PlainTextResponse(f"{text}\n", status)(scope, receive, send)
            return
        self._running[address] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[address] -= 1
            self._running += Counter()  # forgets addresses without requests

    async def _refusal(self, scope: Scope, address: str) -> tuple[int, str] | None:
        """Status and text of the answer to a request without permission; None: it is allowed."""
        headers, path, rules = Headers(scope=scope), scope["path"], self._rules
        is_websocket = scope["type"] == "websocket"
        if rules.max_requests and address not in LOOPBACK and self._running[address] >= rules.max_requests:
            return 429, "Too many requests from your address."
        if not rules.is_allowed_host(headers):
            return 421, "This host name is not allowed."
        if not is_websocket and scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "Method not allowed."
        if not rules.is_same_origin(headers, required=is_websocket):
            return 403, "Requests from other pages are not allowed."
        if "transfer-encoding" in headers or int(headers.get("content-length", "0")) > _max_body_bytes(path):
            return 413, "The request is too long, or does not say how long it is."
        is_open = _STATIC_ROUTES.fullmatch(path) or _LOGIN_ROUTES.fullmatch(path)
        if not is_websocket and (is_open or (path == _STARTUP_ROUTE and not rules.launched)):
            return None
        if not await self._is_authenticated(scope):
            return 401, "Log in first."
        exists = path == _WEBSOCKET_ROUTE if is_websocket else _PLAYER_ROUTES.fullmatch(path)
        return None if exists else (404, "Not found.")

    async def _is_authenticated(self, scope: Scope) -> bool:
        """Whether no login is needed, or Gradio knows the session: its own route is called, inside this process."""
        if not self._rules.needs_login:
            return True
        path = "/gradio_api/login_check"
        check = {**scope, "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
        check["scheme"] = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
        status = None

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        await self._app(check, receive, send)
        return status == 200


def _max_body_bytes(path: str) -> int:
    if path == "/gradio_api/upload":
        return MAX_UPLOAD_BYTES + 4096  # the form around the file
    return MAX_LOGIN_BYTES if _LOGIN_ROUTES.fullmatch(path) else MAX_EVENT_BYTES


def _add_headers(send: Send, headers: dict[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers


def password_check(password: str, delay_secs: float) -> Callable[[str, str], Awaitable[bool]]:
    """The `auth` argument of `launch`: one password for everybody, with any user name."""
    lock = asyncio.Lock()

    async def check(user_name: str, given: str) -> bool:
        async with lock:
            await asyncio.sleep(delay_secs)
        return hmac.compare_digest(given.encode(), password.encode())

    return check


class LimitedProtocol(H11Protocol):
    """One HTTP connection of uvicorn, with time limits on what the client sends and reads.

    Args:
        unfinished: the timers of connections whose request has not arrived in full, in the order in which they began to
            wait. All connections of a server share it.
    """

    def __init__(self, *arguments: Any, limits: Limits, unfinished: dict[H11Protocol, TimerHandle], **options: Any):
        super().__init__(*arguments, **options)
        self._limits, self._unfinished = limits, unfinished
        self._read_timer: TimerHandle | None = None

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
        self._stop_timers()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_timer = self.loop.call_later(self._limits.read_secs, self.drop)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()

    def drop(self) -> None:
        """End the connection now, whatever is still to be sent."""
        self._stop_timers()
        self.connections.discard(self)
        self.transport.abort()

    def _watch_request(self) -> None:
        """Start a time limit when the client begins to owe a request. More bytes of it do not extend the limit."""
        is_websocket = self.transport.get_protocol() is not self
        owes = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not is_websocket
        if owes and self not in self._unfinished and not self.transport.is_closing():
            self._unfinished[self] = self.loop.call_later(self._limits.request_secs, self.drop)
        elif not owes and self in self._unfinished:
            self._unfinished.pop(self).cancel()

    def _stop_timers(self) -> None:
        for timer in (self._unfinished.pop(self, None), self._read_timer):
            if timer is not None:
                timer.cancel()


def limit_connections(web_server: uvicorn.Config, image_bytes: int, max_connections: int, limits: Limits) -> None:
    """Make Gradio's web server accept only small messages, and soon notice who has gone or sends nothing.

    Gradio has no options for this. Uvicorn reads these for each new connection, so they can be set while it runs.
    Requests on further connections than `max_connections` at a time are answered 503.
    """
    web_server.http_protocol_class = functools.partial(LimitedProtocol, limits=limits, unfinished={})
    web_server.ws_max_size = max(MAX_MESSAGE_BYTES, image_bytes) + 1024
    web_server.ws_ping_interval = web_server.ws_ping_timeout = PING_SECS
    web_server.ws_per_message_deflate = False
    web_server.limit_concurrency = max_connections
    web_server.timeout_graceful_shutdown = 2


def check_memory(
    rollout_bytes: int,
    recording_bytes: int,
    max_players: int,
    device: torch.device,
    free_memory: Callable[[torch.device], int | None],
) -> str:
    """Check that all places can be taken at once, and one more rollout be generated for a program (play/api.py).

    A player takes at most `rollout_bytes` on the device, and `recording_bytes` on the CPU. Returns this for the log.
    """
    cpu = torch.device("cpu")
    needs = {device: rollout_bytes}
    needs[cpu] = needs.get(cpu, 0) + recording_bytes
    for place, per_player in needs.items():
        free, other = free_memory(place), rollout_bytes if place == device else 0
        if free is not None and max_players * per_player + other > free:
            fitting = max(0, free - other) // per_player
            remedy = f"choose --max-players {fitting}" if fitting else "play a smaller checkpoint"
            needed, available = ((x / 2**30) for x in (max_players * per_player + other, free))
            raise ValueError(
                f"{max_players} players need up to {needed:.1f} GiB, and {available:.1f} GiB are free on the "
                f"{'GPU' if place.type == 'cuda' else 'CPU'}: {remedy}"
            )
    rollout_mib, recording_mib = rollout_bytes / 2**20, recording_bytes / 2**20
    return f"memory per player: up to {rollout_mib:.0f} MiB, and {recording_mib:.0f} MiB more while recording"
