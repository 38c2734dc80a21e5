"""Access control: a middleware in Gradio's app, in front of every route and the websocket.

Gradio's own `auth` shows the login page, checks the password and keeps the cookie. It leaves open what this middleware
closes:
- routes of Gradio that ask for no login, and websockets;
- requests from other web pages, which a player's browser sends with the cookie (cross-site websocket hijacking);
- foreign host names that point to this machine (DNS rebinding);
- routes that the page does not need, such as Gradio's proxy;
- request bodies of any size.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN_DELAY_SECS = 0.5  # before each answer to a login; one login is checked at a time, which slows guessing down
MAX_LOGIN_BYTES = 4096
MAX_EVENT_BYTES = 256 * 2**10  # of any other request, except an upload
MAX_UPLOAD_BYTES = 8 * 2**20

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


@dataclass
class AccessRules:
    """Who may connect. The launcher changes the rules while the server starts."""

    needs_login: bool
    # Host names to accept besides all IP addresses.
    allowed_hosts: set[str] = field(default_factory=lambda: {"localhost", socket.gethostname().lower()})
    public_host: str = ""  # host name in the Origin header behind a proxy that changes the Host header
    frame_ancestors: str = "'none'"  # origins of pages that may show this one in a frame
    launched: bool = False

    def is_allowed_host(self, headers: Headers) -> bool:
        """Whether the Host header is an IP address or an allowed name."""
        name = _host_name(headers.get("host", ""))
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


class AuthMiddleware:
    """ASGI middleware that answers requests without permission itself and passes the others on.

    It is given to Gradio as `launch(app_kwargs={"middleware": [Middleware(AuthMiddleware, rules=rules)]})`.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules):
        self._app, self._rules = app, rules
        self._headers = {
            "content-security-policy": _CONTENT_SECURITY_POLICY.format(frame_ancestors=rules.frame_ancestors),
            "x-content-type-options": "nosniff",
            "referrer-policy": "same-origin",  # "no-referrer" would make browsers send "Origin: null" with the login
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._handle_http(scope, receive, send)
        elif scope["type"] == "websocket":
            if await self._is_allowed_websocket(scope):
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})  # not accepted yet, so the browser gets a 403
        else:
            await self._app(scope, receive, send)

    async def _is_allowed_websocket(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        return (
            scope["path"] == _WEBSOCKET_ROUTE
            and self._rules.is_allowed_host(headers)
            and self._rules.is_same_origin(headers, required=True)
            and await self._is_authenticated(scope)
        )

    async def _handle_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_static = _STATIC_ROUTES.fullmatch(scope["path"]) is not None
        send = _add_headers(send, self._headers if is_static else {**self._headers, "cache-control": "no-store"})
        refusal = await self._refusal(scope, is_static)
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await _call_with_body_limit(self._app, _max_body_bytes(scope["path"]), scope, receive, send)

    async def _refusal(self, scope: Scope, is_static: bool) -> PlainTextResponse | None:
        """The answer to a request without permission; None: the request is allowed."""
        headers, path = Headers(scope=scope), scope["path"]
        if not self._rules.is_allowed_host(headers):
            return PlainTextResponse("This host name is not allowed.\n", 421)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Method not allowed.\n", 405)
        if not self._rules.is_same_origin(headers, required=False):
            return PlainTextResponse("Requests from other pages are not allowed.\n", 403)
        if is_static or _LOGIN_ROUTES.fullmatch(path) or (path == _STARTUP_ROUTE and not self._rules.launched):
            return None
        if not await self._is_authenticated(scope):
            return PlainTextResponse("Log in first.\n", 401)
        return None if _PLAYER_ROUTES.fullmatch(path) else PlainTextResponse("Not found.\n", 404)

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


def password_check(password: str) -> Callable[[str, str], Awaitable[bool]]:
    """The `auth` argument of `launch`: one password for everybody, with any user name."""
    lock = asyncio.Lock()

    async def check(user_name: str, given: str) -> bool:
        async with lock:
            await asyncio.sleep(LOGIN_DELAY_SECS)
        return hmac.compare_digest(given.encode(), password.encode())

    return check


def _host_name(host: str) -> str:
    """A Host header without the port and without the brackets of an IPv6 address."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _max_body_bytes(path: str) -> int:
    if path == "/gradio_api/upload":
        return MAX_UPLOAD_BYTES + 4096  # the form around the file
    return MAX_LOGIN_BYTES if _LOGIN_ROUTES.fullmatch(path) else MAX_EVENT_BYTES


def _add_headers(send: Send, headers: dict[str, str]) -> Send:
    """Wrap `send` to add headers to the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            response_headers = MutableHeaders(scope=message)
            for name, value in headers.items():
                response_headers[name] = value
        await send(message)

    return send_with_headers


async def _call_with_body_limit(app: ASGIApp, max_bytes: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Call `app`. If the body is longer than `max_bytes`, stop reading it and answer 413."""
    num_bytes, too_long, started = 0, False, False
    length = Headers(scope=scope).get("content-length", "0")
    too_long_response = PlainTextResponse("The request is too long.\n", 413)
    if not length.isdecimal() or int(length) > max_bytes:
        await too_long_response(scope, receive, send)
        return

    async def receive_limited() -> Message:
        nonlocal num_bytes, too_long
        message = await receive()
        if message["type"] == "http.request":
            num_bytes += len(message.get("body", b""))
            if num_bytes > max_bytes:
                too_long = True
                return {"type": "http.disconnect"}
        return message

    async def send_unless_too_long(message: Message) -> None:
        nonlocal started
        if not too_long or started:
            started = True
            await send(message)

    try:
        await app(scope, receive_limited, send_unless_too_long)
    except Exception:  # frameworks raise several types when the client disconnects
        if not too_long:
            raise
    if too_long and not started:
        await too_long_response(scope, receive, send)
