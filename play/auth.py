"""Who may talk to the server: a password on every route, and no other page of the same browser.

A page from elsewhere can make a browser connect to 127.0.0.1. It cannot hide where it is from: a websocket's Origin
must be the server's own address (against cross-site hijacking), and that address must be a number, localhost or this
machine's name, never a name that somebody else can point here (against DNS rebinding).
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

LOGIN_BYTES = 4096  # the most that a log-in form may send
LOGIN_DELAY_SECS = 0.5  # guesses are answered one after another, each after so long
_LOGIN_PAGE = (Path(__file__).parent / "page" / "login.html").read_text()
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with none at all, browsers hide the origin of the log-in form
    "cache-control": "no-store",
}


class AuthMiddleware:
    """Stands before an application (ASGI) and lets through what may pass.

    Args:
        app: the application.
        port: where it listens; browsers keep one cookie jar for all ports of a host.
        password: None: everybody may come in.
        hosts: names that it may be called by besides localhost, this machine's own and all numeric addresses.
    """

    def __init__(self, app: ASGIApp, port: int, password: str | None, hosts: set[str] | None = None):
        self._app, self._password = app, password
        self._cookie, self._token = f"dreamrun-{port}", secrets.token_urlsafe(32)
        self._one_at_a_time = asyncio.Lock()
        self.hosts = {"localhost", socket.gethostname().lower()} | (hosts or set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            headers = Headers(scope=scope)
            if self._host_is_ours(headers) and self._same_origin(headers, needed=True) and self._knows(headers):
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})  # before it is accepted: 403
        else:
            await self._http(Request(scope, receive), receive, _with_headers(send))

    async def _http(self, request: Request, receive: Receive, send: Send) -> None:
        headers, path = request.headers, request.url.path
        if not self._host_is_ours(headers):
            answer = PlainTextResponse("This server does not go by that name.\n", 421)
        elif request.method not in ("GET", "HEAD", "POST") or (request.method == "POST" and path != "/login"):
            answer = PlainTextResponse("Method not allowed.\n", 405)
        elif request.method == "POST":
            answer = await self._log_in(request)
        elif self._knows(headers):
            if path != "/login":
                await self._app(request.scope, receive, send)
                return
            answer = RedirectResponse("/", 303)
        elif path in ("/", "/login"):
            answer = _login_page("", 401)
        else:
            answer = PlainTextResponse("Log in first.\n", 401)
        await answer(request.scope, receive, send)

    async def _log_in(self, request: Request) -> Response:
        if not self._same_origin(request.headers, needed=False):
            return PlainTextResponse("Log in from this server's own page.\n", 403)
        body = b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > LOGIN_BYTES:
                    return PlainTextResponse("Too long.\n", 413)
        except ClientDisconnect:
            return PlainTextResponse("", 400)
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        async with self._one_at_a_time:
            await asyncio.sleep(LOGIN_DELAY_SECS)
        if self._password is not None and not hmac.compare_digest(given.encode(), self._password.encode()):
            return _login_page("That is not the password.", 401)
        answer = RedirectResponse("/", 303)
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax", secure=secure)
        return answer

    def _knows(self, headers: Headers) -> bool:
        """Whether this browser has given the password."""
        if self._password is None:
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self._token.encode())

    def _host_is_ours(self, headers: Headers) -> bool:
        name = _host_name(headers.get("host", ""))
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self.hosts

    def _same_origin(self, headers: Headers, needed: bool) -> bool:
        origin = headers.get("origin")
        return not needed if origin is None else origin.lower().partition("://")[2] == headers.get("host", "").lower()


def _host_name(host: str) -> str:
    """A Host header without its port, brackets of an IPv6 address taken off."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _login_page(message: str, status: int) -> HTMLResponse:
    # The page's style stands in the page, as without the password no other file can be had.
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    return HTMLResponse(_LOGIN_PAGE.replace("{message}", message), status, {"content-security-policy": policy})


def _with_headers(send: Send) -> Send:
    """`send`, with the headers that every answer carries."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
