"""The password, and requests from other web pages."""

import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from playing import Client, can_play, request, serving
from websockets.exceptions import InvalidStatus

from play import auth

PASSWORD = "open sesame"

ROUTES = ("/", "/play.css", "/play.js", "/icon.svg", "/recordings/x/dream.mp4", "/nowhere", "/docs", "/openapi.json")


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


def log_in(address: str, password: str) -> tuple[int, dict, bytes]:
    return request(address, "/login", "POST", f"password={password.replace(' ', '+')}".encode(), Origin=address)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("cookie", ["", "dreamrun=x", "dreamrun-PORT=wrong", "dreamrun-PORT=", "a=\x7f; ;;=="])
def test_no_route_answers_without_the_password(locked_address, path, cookie):
    given = {"Cookie": cookie.replace("PORT", locked_address.rsplit(":", 1)[1])} if cookie else {}
    for method in ("GET", "HEAD"):
        status, headers, body = request(locked_address, path, method, **given)
        assert status == 401 and "set-cookie" not in headers
        assert b"play.js" not in body and b"canvas" not in body


@pytest.mark.parametrize("cookie", ["", "dreamrun-PORT=wrong"])
def test_no_websocket_opens_without_the_password(locked_address, cookie):
    cookie = cookie.replace("PORT", locked_address.rsplit(":", 1)[1])
    given = {"additional_headers": {"Cookie": cookie}} if cookie else {}
    with pytest.raises(InvalidStatus, match="403"):
        Client(locked_address, **given)


@pytest.mark.parametrize("password", ["", "open", PASSWORD + "x", PASSWORD.upper(), "%00", "é"])
def test_wrong_passwords_are_rejected(locked_address, password):
    status, headers, body = request(
        locked_address, "/login", "POST", b"password=" + password.encode(), Origin=locked_address
    )
    assert status == 401 and "set-cookie" not in headers and b"Wrong password" in body
    assert request(locked_address, "/login", "POST", b"pass=" + PASSWORD.encode())[0] == 401


def test_the_password_opens_all_routes(locked_address):
    status, headers, _ = log_in(locked_address, PASSWORD)
    assert status == 303 and headers["location"] == "/"
    cookie = headers["set-cookie"].split(";")[0]
    assert "httponly" in headers["set-cookie"].lower() and "samesite=lax" in headers["set-cookie"].lower()
    assert PASSWORD not in headers["set-cookie"]
    for path in ("/", "/play.css", "/play.js", "/icon.svg"):
        assert request(locked_address, path, Cookie=cookie)[0] == 200
    assert request(locked_address, "/login", Cookie=cookie)[0] == 303
    assert can_play(locked_address, additional_headers={"Cookie": cookie})


def test_log_ins_are_checked_one_after_another(locked_address, monkeypatch):
    monkeypatch.setattr(auth, "LOGIN_DELAY_SECS", 0.2)
    start = time.monotonic()
    threads = [threading.Thread(target=log_in, args=(locked_address, "wrong")) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 1.0


def test_log_ins_from_another_origin_or_too_long_are_rejected(locked_address):
    body = f"password={PASSWORD}".encode()
    assert request(locked_address, "/login", "POST", body, Origin="http://evil.example")[0] == 403
    assert request(locked_address, "/login", "POST", b"password=" + b"x" * 100_000)[0] == 413


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:1", "null", None, "http://127.0.0.1", "x:", "http://["]
)
def test_websockets_from_another_origin_are_rejected(address, origin):
    with pytest.raises(InvalidStatus, match="403"):
        Client(address, origin=origin)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[", "localhost.evil"]
)
def test_unknown_host_names_are_rejected(address, host):
    assert request(address, "/", Host=host)[0] in (400, 421)
    raw = socket.create_connection(address.removeprefix("http://").split(":"), timeout=10)
    raw.sendall(
        f"GET /socket HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " not in raw.recv(200)
    raw.close()


def test_own_host_names_and_ip_addresses_are_accepted(address):
    port = address.rsplit(":", 1)[1]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "192.168.1.5:80"):
        assert request(address, "/", Host=host)[0] == 200


def test_every_response_has_security_headers(address):
    for path in ("/", "/play.js", "/nowhere"):
        headers = request(address, path)[1]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_the_page_requests_nothing_from_other_hosts():
    for path in (Path(auth.__file__).parent / "page").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and 'src="//' not in text, path
