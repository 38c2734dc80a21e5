"""Authentication, and checks of the Host and Origin headers.

With a password, every route needs the session cookie that the log-in page sets. Two checks stop other web pages, which
can make the player's browser connect to 127.0.0.1 too:
- The Origin header of a websocket must be the server's own address (against cross-site websocket hijacking).
- The Host header must be an IP address, localhost, this machine's name or an allowed name (against DNS rebinding, where
  an attacker's domain name points to this machine).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_LOGIN_BYTES = 4096  # of a log-in request
LOGIN_DELAY_SECS = 0.5  # before each answer to a log-in; one log-in is checked at a time, which slows guessing down
_LOGIN_PAGE = (Path(__file__).parent / "page" / "login.html").read_text()
_SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # "no-referrer" would make browsers send "Origin: null" with the log-in
    "cache-control": "no-store",
}


class AuthMiddleware:
    """ASGI middleware that answers requests without permission itself and passes the others on.

    Args:
        app: the application behind it.
        port: the server's port. It is part of the cookie's name, as browsers share cookies among all ports of a host.
        password: None: no log-in is needed.
        allowed_hosts: host names to accept besides localhost, this machine's name and all IP addresses.
    """

    def __init__(self, app: ASGIApp, port: int, password: str | None, allowed_hosts: set[str] | None = None):
        self._app, self._password = app, password
        self._cookie_name, self._session_token = f"dreamrun-{port}", secrets.token_urlsafe(32)
        self._login_lock = asyncio.Lock()
        self._allowed_hosts = {"localhost", socket.gethostname().lower()} | (allowed_hosts or set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            headers = Headers(scope=scope)
            if (
                self._is_allowed_host(headers)
                and self._is_same_origin(headers, required=True)
                and self._is_authenticated(headers)
            ):
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})  # not accepted yet, so the browser gets a 403
        else:
            await self._handle_http(Request(scope, receive), receive, _add_security_headers(send))

    async def _handle_http(self, request: Request, receive: Receive, send: Send) -> None:
        headers, path = request.headers, request.url.path
        if not self._is_allowed_host(headers):
            response = PlainTextResponse("This host name is not allowed.\n", 421)
        elif request.method not in ("GET", "HEAD", "POST") or (request.method == "POST" and path != "/login"):
            response = PlainTextResponse("Method not allowed.\n", 405)
        elif request.method == "POST":
            response = await self._log_in(request)
        elif self._is_authenticated(headers):
            if path != "/login":
                await self._app(request.scope, receive, send)
                return
            response = RedirectResponse("/", 303)
        elif path in ("/", "/login"):
            response = _login_page("", 401)
        else:
            response = PlainTextResponse("Log in first.\n", 401)
        await response(request.scope, receive, send)

    async def _log_in(self, request: Request) -> Response:
        if not self._is_same_origin(request.headers, required=False):
            return PlainTextResponse("Log in on this server's own page.\n", 403)
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_LOGIN_BYTES:
                    return PlainTextResponse("The request is too long.\n", 413)
        except ClientDisconnect:
            return PlainTextResponse("", 400)
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        async with self._login_lock:
            await asyncio.sleep(LOGIN_DELAY_SECS)
        if self._password is not None and not hmac.compare_digest(given.encode(), self._password.encode()):
            return _login_page("Wrong password.", 401)
        response = RedirectResponse("/", 303)
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        response.set_cookie(self._cookie_name, self._session_token, httponly=True, samesite="lax", secure=secure)
        return response

    def _is_authenticated(self, headers: Headers) -> bool:
        """Whether the request needs no password or has the session cookie."""
        if self._password is None:
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie_name)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self._session_token.encode())

    def _is_allowed_host(self, headers: Headers) -> bool:
        name = _host_name(headers.get("host", ""))
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self._allowed_hosts

    def _is_same_origin(self, headers: Headers, required: bool) -> bool:
        """Whether the Origin header names this server. Without the header: whether it is not `required`."""
        origin = headers.get("origin")
        if origin is None:
            return not required
        return origin.lower().partition("://")[2] == headers.get("host", "").lower()


def _host_name(host: str) -> str:
    """A Host header without the port and without the brackets of an IPv6 address."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _login_page(message: str, status: int) -> HTMLResponse:
    # The style is inline: no other file is served without the password.
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    return HTMLResponse(_LOGIN_PAGE.replace("{message}", message), status, {"content-security-policy": policy})


def _add_security_headers(send: Send) -> Send:
    """Wrap `send` to add the security headers to every response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
