"""Clients that hold connections: half-open requests, slow readers, and many requests from one address."""

import contextlib
import socket
import time
from pathlib import Path

import gradio
import pytest
from browsing import wait_until
from playing import Client, can_play, request, running, serving
from websockets.exceptions import InvalidStatus

from dreamrun.play import limits, server

LIMIT_SECS = 4.0
HALF_REQUESTS = [
    b"GET /con",
    b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ",
    b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 9999\r\n\r\n{",
    b"GET /theme.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /theme.css HTTP/1.1\r\n",  # the second one on a connection
]


@pytest.fixture(scope="module")
def address(play_config):
    """A server with few connections and short time limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "MAX_WAITING", 0)
        for name in ("HEADERS_SECS", "BODY_SECS", "READ_SECS"):
            patch.setattr(limits, name, LIMIT_SECS)
        with serving(play_config) as address:
            yield address


def open_socket(address: str, data: bytes, source: str = "127.0.0.1") -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    raw = socket.create_connection((host, int(port)), timeout=10, source_address=(source, 0))
    raw.sendall(data)
    return raw


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


def test_half_open_requests_keep_nobody_out_and_are_closed(address):
    max_connections = running(address).server.max_connections
    with contextlib.ExitStack() as stack:
        player = stack.enter_context(Client(address)).join()
        player.start()
        start = time.monotonic()
        held = [
            stack.enter_context(open_socket(address, HALF_REQUESTS[number % len(HALF_REQUESTS)]))
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


def test_a_client_that_does_not_read_its_response_is_disconnected(address):
    assets = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    largest = max(assets.iterdir(), key=lambda path: path.stat().st_size)
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(10)
        raw.connect((host, int(port)))
        raw.sendall(get(f"/assets/{largest.name}") * 3)
        time.sleep(LIMIT_SECS + 1)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := raw.recv(2**20):
                received += len(data)
        assert 0 < received < 3 * largest.stat().st_size


def test_one_address_cannot_take_all_connections(address):
    limit = running(address).server.max_connections // 2
    forwarded = ("X-Forwarded-For: 203.0.113.7",)  # as a tunnel on this machine says for whom it connects
    with contextlib.ExitStack() as stack:

        def hold(source, *headers):
            stream = get("/gradio_api/heartbeat/x", *headers)  # is answered until the client leaves
            return status(stack.enter_context(open_socket(address, stream, source)))

        assert [hold("127.0.0.2") for _ in range(limit + 3)] == [200] * limit + [429] * 3
        with pytest.raises(InvalidStatus, match="403"):
            Client(address, source_address=("127.0.0.2", 0))
        assert [hold("127.0.0.1", *forwarded) for _ in range(limit // 2)] == [200] * (limit // 2)
        assert hold("127.0.0.2", *forwarded) == 429  # only a tunnel on 127.0.0.1 is believed
        assert request(address, "/config")[0] == 200 and can_play(address)
    wait_until(lambda: request_from(address, "127.0.0.2") == 200)  # they have left


def request_from(address: str, source: str) -> int:
    with open_socket(address, get("/theme.css"), source) as raw:
        return status(raw)


def test_long_uploads_and_idle_connections_within_the_limits_are_served(address):
    body = (
        b'--b\r\ncontent-disposition: form-data; name="files"; filename="x.png"\r\n\r\n' + b"x" * 20 + b"\r\n--b--\r\n"
    )
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with open_socket(address, head) as raw:
        time.sleep(0.6 * LIMIT_SECS)
        raw.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode())
        time.sleep(0.6 * LIMIT_SECS)  # together longer than one limit
        raw.sendall(body)
        assert status(raw) == 200
