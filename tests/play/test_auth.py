"""The login, requests from other web pages, and every route of the running app."""

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
from dataclasses import replace

import pytest
from fastapi.routing import iter_route_contexts
from gradio_client import Client as GradioClient
from playing import Client, can_play, request, running, serving
from starlette.datastructures import Headers
from websockets.exceptions import InvalidStatus

from dreamrun.play import auth

PASSWORD = "open sesame"
OPEN_ROUTES = {"/", "/login", "/login/"}  # the login page
STATIC_ROUTES = {"/svelte/{path:path}", "/static/{path:path}", "/assets/{path:path}"}
STATIC_ROUTES |= {"/favicon.ico", "/theme.css", "/robots.txt"}


@pytest.fixture(scope="module")
def locked_address(play_config):
    """The address of a server with a password."""
    os.environ["DREAMRUN_TEST_PASSWORD"] = PASSWORD
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(replace(play_config, password_env="DREAMRUN_TEST_PASSWORD")) as address,
    ):
        patch.setattr(auth, "LOGIN_DELAY_SECS", 0.01)
        yield address


def log_in(address: str, password: str, **headers) -> tuple[int, str, bytes]:
    """Status, cookies and body of the answer to a login."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    headers = {"Origin": address, "Content-Type": "application/x-www-form-urlencoded", **headers}
    connection.request("POST", "/login", f"username=me&password={password.replace(' ', '+')}", headers)
    response = connection.getresponse()
    cookies = [cookie.split(";")[0] for cookie in response.headers.get_all("set-cookie", [])]
    status, body = response.status, response.read()
    connection.close()
    return status, "; ".join(cookies), body


def app_routes(address: str) -> list[tuple[str, str]]:
    """(method, path pattern) of every route that Gradio's app has."""
    found = set()
    for context in iter_route_contexts(running(address).routes):
        methods = getattr(context, "methods", None) or getattr(context.original_route, "methods", None) or {"GET"}
        found |= {(method, context.path) for method in methods}
    return sorted(found)


def example_paths(pattern: str) -> list[str]:
    """Requests that a route pattern matches: with harmless and with hostile values."""
    values = ("x", "dream", "1", "http://127.0.0.1:1/x", "../../../etc/passwd")
    return sorted({re.sub(r"\{[^}]+\}", value, pattern) for value in values})


@pytest.fixture(scope="module")
def wrong_cookie(locked_address):
    """A session cookie of the right name with a wrong value."""
    names = [cookie.split("=")[0] for cookie in log_in(locked_address, PASSWORD)[1].split("; ")]
    assert any("access-token" in name for name in names)
    return "; ".join(f"{name}=wrong" for name in names)


def test_no_route_answers_without_login_except_the_login_page_and_static_files(locked_address, wrong_cookie):
    routes = app_routes(locked_address)
    paths = {path for _, path in routes}
    assert {"/", "/config", "/socket", "/gradio_api/queue/join", "/gradio_api/token", "/gradio_api/upload"} <= paths
    assert len(paths) > 60
    answered = {}
    for method, pattern in routes:
        for path in example_paths(pattern):
            for given in ({}, {"Cookie": wrong_cookie}, {"Cookie": "a=\x7f; ;;=="}):
                body = b"{}" if method == "POST" else None
                status, headers, content = request(locked_address, path, method, body, **given)
                assert b"root:" not in content and b"dream-canvas" not in content
                if status not in (401, 403, 404, 405, 421):
                    answered.setdefault(pattern, set()).add(status)
                    assert "set-cookie" not in headers
    assert answered.keys() <= OPEN_ROUTES | STATIC_ROUTES
    assert answered["/login"] <= {400, 422}


def test_the_login_page_tells_nothing(locked_address):
    status, _, body = request(locked_address, "/")
    assert status == 200 and b'"auth_required":true' in body
    for secret in (b"/dream", b"/about", b"pong", b"dream-canvas", b"record"):
        assert secret not in body


@pytest.mark.parametrize("cookie", ["", "access-token=x", "WRONG"])
def test_no_websocket_opens_without_login(locked_address, wrong_cookie, cookie):
    cookie = cookie.replace("WRONG", wrong_cookie)
    given = {"additional_headers": {"Cookie": cookie}} if cookie else {}
    with pytest.raises(InvalidStatus, match="403"):
        Client(locked_address, **given)


@pytest.mark.parametrize("password", ["open", PASSWORD + "x", PASSWORD.upper(), "%00", "%C3%A9"])
def test_wrong_passwords_are_rejected(locked_address, password):
    status, cookies, body = log_in(locked_address, password)
    assert status == 400 and not cookies and b"Incorrect" in body


def test_the_password_opens_the_page_and_the_websocket(locked_address):
    status, cookies, _ = log_in(locked_address, PASSWORD)
    assert status == 200 and PASSWORD not in cookies
    status, _, body = request(locked_address, "/", Cookie=cookies)
    assert status == 200 and b"dream-canvas" in body
    assert request(locked_address, "/config", Cookie=cookies)[0] == 200
    assert can_play(locked_address, additional_headers={"Cookie": cookies})


def test_routes_that_the_page_does_not_need_are_closed_after_login_too(locked_address):
    cookies = log_in(locked_address, PASSWORD)[1]
    for path in (
        *("/docs", "/openapi.json", "/gradio_api/openapi.json", "/gradio_api/token", "/gradio_api/runs", "/monitoring"),
        *("/gradio_api/file=http://127.0.0.1:1/x", "/gradio_api/file=https://x.example", "/gradio_api/startup-events"),
        *("/gradio_api/proxy=http://127.0.0.1:1/x", "/gradio_api/stream/x", "/gradio_api/vibe-code", "/manifest.json"),
    ):
        assert request(locked_address, path, Cookie=cookies)[0] == 404, path
    for path in ("/etc/passwd", "play/launch.py", "/proc/self/environ", "../../etc/passwd"):
        status, _, body = request(locked_address, f"/gradio_api/file={path}", Cookie=cookies)
        assert status in (403, 404) and b"root:" not in body, path


def test_programs_log_in_with_gradio_client(locked_address):
    client = GradioClient(locked_address, auth=("me", PASSWORD), verbose=False)
    assert client.predict(api_name="/about")["game"] == "pong"
    with pytest.raises(ValueError):
        GradioClient(locked_address, auth=("me", "wrong"), verbose=False)
    with pytest.raises(ValueError):
        GradioClient(locked_address, verbose=False)


def test_logins_are_checked_one_after_another(locked_address, monkeypatch):
    monkeypatch.setattr(auth, "LOGIN_DELAY_SECS", 0.2)
    start = time.monotonic()
    threads = [threading.Thread(target=log_in, args=(locked_address, "wrong")) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 1.0


def test_logins_from_another_origin_or_too_long_are_rejected(locked_address):
    assert log_in(locked_address, PASSWORD, Origin="http://evil.example")[0] == 403
    assert log_in(locked_address, "x" * 100_000)[0] == 413


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:1", "null", None, "http://127.0.0.1", "x:", "http://["]
)
def test_websockets_from_another_origin_are_rejected(address, origin):
    with pytest.raises(InvalidStatus, match="403"):
        Client(address, origin=origin)


@pytest.mark.parametrize("path", ["/", "/gradio_api/queue/join", "/socket2", "/gradio_api/heartbeat/x"])
def test_no_other_route_takes_a_websocket(address, path):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(websocket_request(path, f"{host}:{port}", address))
        assert b" 403 " in raw.recv(200).splitlines()[0]


def websocket_request(path: str, host: str, origin: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/queue/join"])
def test_requests_from_another_origin_are_rejected(address, path):
    for origin in ("http://evil.example", "null"):
        assert request(address, path, Origin=origin)[0] == 403
        assert request(address, path, "POST", b"{}", Origin=origin)[0] == 403
    assert request(address, "/config", Origin=address)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[", "localhost.evil"]
)
def test_unknown_host_names_are_rejected(address, host):
    assert request(address, "/", Host=host)[0] in (400, 421)
    raw = socket.create_connection(address.removeprefix("http://").split(":"), timeout=10)
    raw.sendall(websocket_request("/socket", host, f"http://{host}"))
    assert b" 101 " not in raw.recv(200)
    raw.close()


def test_own_host_names_and_ip_addresses_are_accepted(address):
    port = address.rsplit(":", 1)[1]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "192.168.1.5:80"):
        assert request(address, "/", Host=host)[0] == 200


def test_a_proxy_in_front_of_the_server_has_a_public_host_name():
    rules = auth.AccessRules(needs_login=False, public_host="me.hf.space")
    rules.allowed_hosts.add("me.hf.space")
    for host in ("me.hf.space", "10.0.0.1:7860"):  # whether the proxy keeps the Host header or not
        headers = Headers({"host": host, "origin": "https://me.hf.space"})
        assert rules.is_allowed_host(headers) and rules.is_same_origin(headers, required=True)
    assert not rules.is_same_origin(Headers({"host": "me.hf.space", "origin": "https://x.hf.space"}), required=True)
    without_proxy = auth.AccessRules(needs_login=False)
    assert not without_proxy.is_same_origin(Headers({"host": "127.0.0.1", "origin": "null"}), required=True)


def test_every_response_has_security_headers(address):
    for path in ("/", "/nowhere", "/config"):
        headers = request(address, path)[1]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/call/dream", "/login", "/gradio_api/upload"])
@pytest.mark.parametrize("chunked", [False, True])
def test_oversized_bodies_are_rejected(address, path, chunked):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    size = auth.MAX_UPLOAD_BYTES + 100_000 if path.endswith("upload") else auth.MAX_EVENT_BYTES + 100_000
    content_type, head = "application/json", b""
    if path == "/login":
        content_type = "application/x-www-form-urlencoded"
    elif path.endswith("upload"):
        content_type = "multipart/form-data; boundary=b"
        head = b'--b\r\ncontent-disposition: form-data; name="files"; filename="x"\r\n\r\n'
    pieces = [head, *[b"x" * 65536] * (size // 65536 + 1)]
    body = iter(pieces) if chunked else b"".join(pieces)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server has answered already
        connection.request("POST", path, body, {"Content-Type": content_type}, encode_chunked=chunked)
    assert connection.getresponse().status == 413
    connection.close()


def test_uploads_are_kept_in_the_private_folder(address):
    body = b'--b\r\ncontent-disposition: form-data; name="files"; filename="../../x.png"\r\n\r\nabc\r\n--b--\r\n'
    status, _, content = request(
        address, "/gradio_api/upload", "POST", body, **{"Content-Type": "multipart/form-data; boundary=b"}
    )
    (path,) = json.loads(content)
    assert status == 200 and path.startswith(str(running(address).server.folder)) and ".." not in path
