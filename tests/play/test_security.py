"""The login, requests from other web pages, every route of the running app, and clients that hold connections."""

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
from browsing import wait_until
from fastapi.routing import iter_route_contexts
from gradio_client import Client as GradioClient
from playing import Client, can_play, largest_asset, raw_connection, request, running, serving
from starlette.datastructures import Headers
from websockets.exceptions import InvalidStatus

from dreamrun.play.security import MAX_EVENT_BYTES, MAX_UPLOAD_BYTES, AccessRules

PASSWORD = "open sesame"
LOGIN_SECS = 0.1
LIMIT_SECS = 4.0
OPEN_ROUTES = {"/", "/login", "/login/"}  # the login page
STATIC_ROUTES = {"/svelte/{path:path}", "/static/{path:path}", "/assets/{path:path}"}
STATIC_ROUTES |= {"/favicon.ico", "/theme.css", "/robots.txt"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
FORM_HEAD = b'--b\r\ncontent-disposition: form-data; name="files"; filename="../../x.png"\r\n\r\n'
HALF_REQUESTS = [
    b"GET /con",
    b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ",
    b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 9999\r\n\r\n{",
    b"GET /theme.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /theme.css HTTP/1.1\r\n",  # the second one on a connection
]


@pytest.fixture(scope="module")
def locked_address(play_config):
    """The address of a server with a password."""
    os.environ["DREAMRUN_TEST_PASSWORD"] = PASSWORD
    config = replace(play_config, password_env="DREAMRUN_TEST_PASSWORD")
    with serving(config, login_secs=LOGIN_SECS) as address:
        yield address


@pytest.fixture(scope="module")
def small_address(play_config):
    """The address of a server with few connections and short time limits."""
    with serving(play_config, max_waiting=0, request_secs=LIMIT_SECS, read_secs=LIMIT_SECS) as address:
        yield address


def log_in(address: str, password: str, **headers) -> tuple[int, str, bytes]:
    """Status, cookies and body of the answer to a login."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    headers = {"Origin": address, "Content-Type": "application/x-www-form-urlencoded", **headers}
    connection.request("POST", "/login", f"username=me&password={password.replace(' ', '+')}", headers)
    response = connection.getresponse()
    cookies = [cookie.split(";")[0] for cookie in response.headers.get_all("set-cookie", [])]
    code, body = response.status, response.read()
    connection.close()
    return code, "; ".join(cookies), body


def app_routes(address: str) -> list[tuple[str, str]]:
    """(method, path pattern) of every route that Gradio's app has."""
    found = set()
    for context in iter_route_contexts(running(address).demo.app.routes):
        methods = getattr(context, "methods", None) or getattr(context.original_route, "methods", None) or {"GET"}
        found |= {(method, context.path) for method in methods}
    return sorted(found)


def example_paths(pattern: str) -> list[str]:
    """Requests that a route pattern matches: with harmless and with hostile values."""
    values = ("x", "dream", "1", "http://127.0.0.1:1/x", "../../../etc/passwd")
    return sorted({re.sub(r"\{[^}]+\}", value, pattern) for value in values})


def wrong_cookie(address: str) -> str:
    """A session cookie of the right name with a wrong value."""
    names = [cookie.split("=")[0] for cookie in log_in(address, PASSWORD)[1].split("; ")]
    assert any("access-token" in name for name in names)
    return "; ".join(f"{name}=wrong" for name in names)


def test_no_route_answers_without_login_except_the_login_page_and_static_files(locked_address):
    routes = app_routes(locked_address)
    paths = {path for _, path in routes}
    assert {"/", "/config", "/socket", "/gradio_api/queue/join", "/gradio_api/token", "/gradio_api/upload"} <= paths
    assert len(paths) > 60
    answered = {}
    cookie = wrong_cookie(locked_address)
    for method, pattern in routes:
        for path in example_paths(pattern):
            for given in ({}, {"Cookie": cookie}, {"Cookie": "a=\x7f; ;;=="}):
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


def test_only_the_password_opens_the_page_and_the_websocket(locked_address):
    for password in ("open", PASSWORD + "x", PASSWORD.upper(), "%00", "%C3%A9"):
        status, cookies, body = log_in(locked_address, password)
        assert status == 400 and not cookies and b"Incorrect" in body
    for given in ({}, {"Cookie": "access-token=x"}, {"Cookie": wrong_cookie(locked_address)}):
        with pytest.raises(InvalidStatus, match="403"):
            Client(locked_address, additional_headers=given)
    assert log_in(locked_address, PASSWORD, Origin="http://evil.example")[0] == 403
    status, cookies, _ = log_in(locked_address, PASSWORD)
    assert status == 200 and PASSWORD not in cookies
    assert b"dream-canvas" in request(locked_address, "/", Cookie=cookies)[2]
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
    for auth in (("me", "wrong"), None):
        with pytest.raises(ValueError):
            GradioClient(locked_address, auth=auth, verbose=False)


def test_logins_are_checked_one_after_another(locked_address):
    start = time.monotonic()
    threads = [threading.Thread(target=log_in, args=(locked_address, "wrong")) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 5 * LOGIN_SECS


@pytest.mark.parametrize(
    ("path", "host", "origin"),
    [
        *(("/socket", None, origin) for origin in ("http://evil.example", "http://127.0.0.1:1", "null", None, "x:")),
        *(("/socket", None, origin) for origin in ("http://127.0.0.1", "http://[")),
        *(("/socket", host, f"http://{host}") for host in ("evil.example", "127.0.0.1.evil.example", "", "[")),
        *((path, None, "OWN") for path in ("/", "/gradio_api/queue/join", "/socket2", "/gradio_api/heartbeat/x")),
    ],
)
def test_no_websocket_opens_elsewhere_or_from_elsewhere(address, path, host, origin):
    own = address.removeprefix("http://")
    lines = [f"GET {path} HTTP/1.1", f"Host: {own if host is None else host}", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    lines += [f"Origin: {address if origin == 'OWN' else origin}"] if origin is not None else []
    with raw_connection(address, "\r\n".join((*lines, "\r\n")).encode()) as raw:
        assert status(raw) in (400, 403)


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/queue/join"])
def test_requests_from_other_pages_and_to_other_hosts_are_refused(address, path):
    for origin in ("http://evil.example", "null"):
        assert request(address, path, Origin=origin)[0] == 403
        assert request(address, path, "POST", b"{}", Origin=origin)[0] == 403
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[", "localhost.evil"):
        assert request(address, path, Host=host)[0] in (400, 421)


def test_own_origin_and_host_names_and_ip_addresses_are_accepted(address):
    port = address.rsplit(":", 1)[1]
    assert request(address, "/config", Origin=address)[0] == 200
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "192.168.1.5:80"):
        assert request(address, "/", Host=host)[0] == 200


def test_a_proxy_in_front_of_the_server_has_a_public_host_name():
    rules = AccessRules(needs_login=False, public_host="me.hf.space")
    rules.allowed_hosts.add("me.hf.space")
    for host in ("me.hf.space", "10.0.0.1:7860"):  # whether the proxy keeps the Host header or not
        headers = Headers({"host": host, "origin": "https://me.hf.space"})
        assert rules.is_allowed_host(headers) and rules.is_same_origin(headers, required=True)
    assert not rules.is_same_origin(Headers({"host": "me.hf.space", "origin": "https://x.hf.space"}), required=True)
    without_proxy = AccessRules(needs_login=False)
    assert not without_proxy.is_same_origin(Headers({"host": "127.0.0.1", "origin": "null"}), required=True)


def test_every_response_has_security_headers(address):
    for path in ("/", "/nowhere", "/config"):
        headers = request(address, path)[1]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/call/dream", "/login", "/gradio_api/upload"])
@pytest.mark.parametrize("chunked", [False, True])
def test_oversized_bodies_are_refused(address, path, chunked):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    size = (MAX_UPLOAD_BYTES if path.endswith("upload") else MAX_EVENT_BYTES) + 100_000
    headers = FORM if path.endswith("upload") else {"Content-Type": "application/json"}
    pieces = [FORM_HEAD if path.endswith("upload") else b"", *[b"x" * 65536] * (size // 65536 + 1)]
    body = iter(pieces) if chunked else b"".join(pieces)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server has answered already
        connection.request("POST", path, body, headers, encode_chunked=chunked)
    assert connection.getresponse().status == 413
    connection.close()


def test_uploads_are_kept_in_the_private_folder(address):
    code, _, content = request(address, "/gradio_api/upload", "POST", FORM_HEAD + b"abc\r\n--b--\r\n", **FORM)
    (path,) = json.loads(content)
    assert code == 200 and path.startswith(str(running(address).server.folder)) and ".." not in path


def is_open(raw: socket.socket) -> bool:
    """Whether the server has not closed a connection. Reads what there is."""
    raw.setblocking(False)
    try:
        while raw.recv(65536):
            pass
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "\r\n")).encode()


def status(raw: socket.socket) -> int:
    return int(raw.recv(20).split()[1])


def test_half_open_requests_keep_nobody_out_and_are_closed(small_address):
    address, max_connections = small_address, running(small_address).server.max_connections
    with contextlib.ExitStack() as stack:
        player = stack.enter_context(Client(address)).join()
        player.start()
        start = time.monotonic()
        held = [
            stack.enter_context(raw_connection(address, HALF_REQUESTS[number % len(HALF_REQUESTS)]))
            for number in range(max_connections + 40)
        ]
        for _ in range(5):
            assert request(address, "/config")[0] == 200
        assert can_play(address)
        assert sum(map(is_open, held)) > max_connections - 20
        assert time.monotonic() - start < LIMIT_SECS, "the machine is too slow for this test"
        while held:  # a byte now and then does not extend the time
            assert time.monotonic() - start < LIMIT_SECS + 5
            time.sleep(0.2)
            held = [raw for raw in held if is_open(raw)]
            for raw in held:
                with contextlib.suppress(OSError):
                    raw.send(b"x")
        assert player.step().header["frame"] == 1  # limits on requests do not end its websocket
    assert can_play(address)


def test_a_client_that_does_not_read_its_response_is_disconnected(small_address):
    largest = largest_asset()
    with raw_connection(small_address, get(f"/assets/{largest.name}") * 3, small=True) as raw:
        raw.settimeout(10)
        time.sleep(LIMIT_SECS + 1)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := raw.recv(2**20):
                received += len(data)
        assert 0 < received < 3 * largest.stat().st_size


def test_one_address_cannot_take_all_connections(small_address):
    address, limit = small_address, running(small_address).server.max_connections // 2
    forwarded = ("X-Forwarded-For: 203.0.113.7",)  # as a tunnel on this machine says for whom it connects
    with contextlib.ExitStack() as stack:

        def hold(source, *headers):
            stream = get("/gradio_api/heartbeat/x", *headers)  # is answered until the client leaves
            return status(stack.enter_context(raw_connection(address, stream, source)))

        assert [hold("127.0.0.2") for _ in range(limit + 3)] == [200] * limit + [429] * 3
        with pytest.raises(InvalidStatus, match="403"):
            Client(address, source_address=("127.0.0.2", 0))
        assert [hold("127.0.0.1", *forwarded) for _ in range(limit // 2)] == [200] * (limit // 2)
        assert hold("127.0.0.2", *forwarded) == 429  # only a tunnel on 127.0.0.1 is believed
        assert request(address, "/config")[0] == 200 and can_play(address)

    def answer():
        with raw_connection(address, get("/theme.css"), "127.0.0.2") as raw:
            return status(raw)

    wait_until(lambda: answer() == 200)  # they have left
