"""Those who do not mean well: the server stays up, gives nothing away, and others keep playing."""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playing import Client, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus

from benchmarks.playing import running_server
from play import auth

PASSWORD = "open sesame"
ROUTES = ("/", "/play.css", "/play.js", "/icon.svg", "/recordings/x/dream.mp4", "/nowhere", "/docs", "/openapi.json")
PATHS = (
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/recordings/../../../../etc/passwd",
    "/recordings/..%2f..%2f..%2fetc/passwd",
    "/recordings/%2e%2e/server.py",
    "/recordings/x/..%2f..%2fserver.py",
    "/recordings//etc/passwd",
    "/recordings/x/%00",
    "/play.css/../../server.py",
    "/play.css%00.py",
    "/page/index.html",
    "/static/../launch.py",
)


@pytest.fixture(scope="module")
def locked(play_config):
    """The address of a server with a password."""
    os.environ["DREAMRUN_TEST_PASSWORD"] = PASSWORD
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(replace(play_config, password_env="DREAMRUN_TEST_PASSWORD")) as address,
    ):
        patch.setattr(auth, "LOGIN_DELAY_SECS", 0.01)
        yield address


def ask(address: str, path: str, method: str = "GET", body: bytes | None = None, **headers) -> tuple[int, dict, bytes]:
    """Status, headers and body of an answer; nothing of the path is tidied up on the way."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, names)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def log_in(address: str, password: str) -> tuple[int, dict, bytes]:
    return ask(address, "/login", "POST", f"password={password.replace(' ', '+')}".encode(), Origin=address)


def plays(address: str, **options) -> bool:
    with Client(address, **options) as client:
        client.enter().start()
        return client.step(("UP",)).header["action"] == 1


# The password


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("cookie", ["", "dreamrun=x", "dreamrun-PORT=wrong", "dreamrun-PORT=", "a=\x7f; ;;=="])
def test_nothing_is_shown_without_the_password(locked, path, cookie):
    given = {"Cookie": cookie.replace("PORT", locked.rsplit(":", 1)[1])} if cookie else {}
    for method in ("GET", "HEAD"):
        status, headers, body = ask(locked, path, method, **given)
        assert status == 401 and "set-cookie" not in headers
        assert b"play.js" not in body and b"canvas" not in body


@pytest.mark.parametrize("cookie", ["", "dreamrun-PORT=wrong"])
def test_no_socket_is_opened_without_the_password(locked, cookie):
    given = {"additional_headers": {"Cookie": cookie.replace("PORT", locked.rsplit(":", 1)[1])}} if cookie else {}
    with pytest.raises(InvalidStatus, match="403"):
        Client(locked, **given)


@pytest.mark.parametrize("password", ["", "open", PASSWORD + "x", PASSWORD.upper(), "%00", "é"])
def test_wrong_passwords_open_nothing(locked, password):
    status, headers, body = ask(locked, "/login", "POST", b"password=" + password.encode(), Origin=locked)
    assert status == 401 and "set-cookie" not in headers and b"not the password" in body
    assert ask(locked, "/login", "POST", b"pass=" + PASSWORD.encode())[0] == 401


def test_the_password_opens_everything(locked):
    status, headers, _ = log_in(locked, PASSWORD)
    assert status == 303 and headers["location"] == "/"
    cookie = headers["set-cookie"].split(";")[0]
    assert "httponly" in headers["set-cookie"].lower() and "samesite=lax" in headers["set-cookie"].lower()
    assert PASSWORD not in headers["set-cookie"]
    for path in ("/", "/play.css", "/play.js", "/icon.svg"):
        assert ask(locked, path, Cookie=cookie)[0] == 200
    assert ask(locked, "/login", Cookie=cookie)[0] == 303
    assert plays(locked, additional_headers={"Cookie": cookie})


def test_guesses_wait_for_each_other(locked, monkeypatch):
    monkeypatch.setattr(auth, "LOGIN_DELAY_SECS", 0.2)
    begun = time.monotonic()
    threads = [threading.Thread(target=log_in, args=(locked, "wrong")) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun >= 1.0


def test_a_login_from_another_page_or_of_any_length_is_refused(locked):
    body = f"password={PASSWORD}".encode()
    assert ask(locked, "/login", "POST", body, Origin="http://evil.example")[0] == 403
    assert ask(locked, "/login", "POST", b"password=" + b"x" * 100_000)[0] == 413


# Other pages of the same browser


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:1", "null", None, "http://127.0.0.1", "x:", "http://["]
)
def test_sockets_from_other_pages_are_refused(address, origin):
    with pytest.raises(InvalidStatus, match="403"):
        Client(address, origin=origin)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[", "localhost.evil"]
)
def test_names_that_others_can_point_here_are_refused(address, host):
    assert ask(address, "/", Host=host)[0] in (400, 421)
    raw = socket.create_connection(address.removeprefix("http://").split(":"), timeout=10)
    raw.sendall(
        f"GET /socket HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b" 101 " not in raw.recv(200)
    raw.close()


def test_our_own_names_are_answered(address):
    port = address.rsplit(":", 1)[1]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "192.168.1.5:80"):
        assert ask(address, "/", Host=host)[0] == 200


def test_every_answer_forbids_what_the_page_does_not_need(address):
    for path in ("/", "/play.js", "/nowhere"):
        headers = ask(address, path)[1]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_the_page_asks_no_other_host_for_anything():
    for path in (Path(auth.__file__).parent / "page").iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and 'src="//' not in text, path


# Files


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_to_a_file(address, path):
    status, _, body = ask(address, path)
    assert status in (400, 404) and b"root:" not in body and b"import" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_nothing_can_be_put_anywhere(address, method):
    assert ask(address, "/play.js", method, b"x" * 1000)[0] == 405


# Messages

BAD = [
    "",
    "x",
    "[]",
    "{}",
    "null",
    '{"type": 3}',
    '{"type": "fly"}',
    "[" * 4000,
    '{"type": "keys"}',
    '{"type": "keys", "held": "UP"}',
    '{"type": "keys", "held": [1, 2]}',
    json.dumps({"type": "keys", "held": ["UP"] * 17}),
    json.dumps({"type": "keys", "held": ["U" * 99]}),
    '{"type": "keys", "held": [], "number": 1e999}',
    '{"type": "keys", "held": [], "number": "1"}',
    '{"type": "speed", "every": 0}',
    '{"type": "speed", "every": true}',
    '{"type": "pause", "on": "yes"}',
    '{"type": "record", "on": 1}',
    '{"type": "real", "on": "../../etc/passwd"}',
]
BAD_STARTS = [
    {"record": "../../etc/passwd"},
    {"record": -1},
    {"record": 3},
    {"record": 0.5},
    {"record": 0, "moment": -1},
    {"record": 0, "moment": 10**9},
    {"record": 0, "moment": "../x"},
    {"record": 0, "seed": -1},
    {"record": 0, "seed": 2**31},
    {"record": 0, "seed": "/etc/passwd"},
    {"record": 0, "num_steps": 0},
    {"record": 0, "num_steps": 1000},
    {"record": 0, "num_steps": [1]},
    {"record": 0, "guidance": -1},
    {"record": 0, "guidance": 1e9},
    {"record": 0, "guidance": float("nan")},
    {"record": None},
    {},
]


@pytest.mark.parametrize("text", BAD + [json.dumps({"type": "start", **fields}) for fields in BAD_STARTS], ids=str)
def test_bad_messages_are_told_and_the_player_plays_on(address, text):
    with Client(address) as client:
        client.enter()
        client.start()
        client.socket.send(text)
        assert "error" in client.until("error")["type"]
        assert client.step(("UP",)).header["action"] == 1


@pytest.mark.parametrize("size", [0, 1, 64 * 64 * 3 - 1, 64 * 64 * 3 + 1])
def test_images_of_the_wrong_size_are_told(address, size):
    with Client(address) as client:
        client.enter()
        client.socket.send(bytes(size))
        assert "expected 64x64 pixels" in client.until("error")["text"]
        client.start()
        assert client.step().header["frame"] == 1


@pytest.mark.parametrize("content", [b"x" * 10_000_000, "x" * 1_000_000], ids=["bytes", "text"])
def test_oversized_messages_end_the_connection(address, content):
    with Client(address) as client:
        client.enter()
        with pytest.raises(ConnectionClosed):
            client.socket.send(content)
            client.until("never")
        assert client.socket.close_code in (1009, 1006)
    assert plays(address)


def test_a_flood_of_keys_ends_the_connection_and_others_play_on(address):
    with Client(address) as other, Client(address) as flooder:
        other.enter().start()
        other.send("pause", on=False)
        flooder.enter().start()
        with pytest.raises(ConnectionClosed, match="too many messages"):
            for number in range(100_000):
                flooder.send("keys", held=["UP"], number=number)
            flooder.until("never")
        frames = [other.until("frame").header["frame"] for _ in range(10)]
        assert frames == sorted(set(frames))


def test_starting_without_end_ends_the_connection(address):
    with Client(address) as client:
        client.enter()
        with pytest.raises(ConnectionClosed, match="too many messages"):
            for _ in range(500):
                client.send("start", record=0)
            client.until("never")
    assert plays(address)


def test_who_takes_no_frames_loses_the_place(play_config, monkeypatch):
    """A browser that is there but reads nothing: the frames it does not take are dropped, then it is hung up on."""
    monkeypatch.setattr("play.player.SEND_TIMEOUT_SECS", 1.0)
    with serving(replace(play_config, max_players=1, fps=60)) as address:
        host, port = address.removeprefix("http://").split(":")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((host, int(port)))
        with Client(address, sock=raw, max_queue=1) as stuck:
            stuck.enter().start()
            stuck.send("pause", on=False)
            with Client(address) as second:  # gets the place within seconds, though `stuck` never hangs up
                second.enter().start()
                assert second.step().header["frame"] >= 1


def resident_mib(process_id: int) -> float:
    (line,) = (x for x in Path(f"/proc/{process_id}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def barrage(address: str, connections: int) -> None:
    """Connections of all kinds, opened and dropped."""
    host, port = address.removeprefix("http://").split(":")
    for number in range(connections):
        with contextlib.suppress(Exception):
            if number % 4 == 0:  # without a word
                socket.create_connection((host, port), timeout=5).close()
            elif number % 4 == 1:  # in the middle of a request
                with socket.create_connection((host, port), timeout=5) as raw:
                    raw.sendall(b"GET /socket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: webso")
            else:
                client = Client(address)
                client.send("start", record=0)
                if number % 4 == 2:  # in the middle of a start, without a good-bye
                    client.socket.socket.shutdown(socket.SHUT_RDWR)
                else:
                    client.socket.send(np.random.default_rng(number).bytes(64 * 64 * 3))
                    client.send("record", on=True)
                    client.close()


def test_after_a_hundred_connections_all_is_as_before(play_config):
    options = ("--checkpoint", play_config.checkpoint, "--data", play_config.data, "--port", 0, "--num-steps", 1)
    with running_server(*options, "--max-players", 3) as (process, name):
        address = f"http://{name}"
        with Client(address) as bystander:
            bystander.enter().start()
            bystander.send("pause", on=False)
            barrage(address, 24)  # libraries set themselves up
            time.sleep(1.0)
            before = resident_mib(process.pid)
            attack = threading.Thread(target=barrage, args=(address, 100))
            attack.start()
            numbers = []
            while attack.is_alive():
                numbers.append(bystander.until("frame").header["frame"])
                if len(numbers) % 50 == 0:
                    bystander.send("speed", every=1)
            attack.join()
            assert len(numbers) > 5 and numbers == sorted(set(numbers))
            time.sleep(2.0)
            assert process.poll() is None
            assert resident_mib(process.pid) < 1.1 * before
            assert bystander.until("frame").header["together"] == 1
            assert plays(address)
