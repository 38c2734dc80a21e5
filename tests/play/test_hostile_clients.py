"""Hostile clients: the server stays up, reveals nothing, and other players keep playing."""

import json

import pytest
from playing import Client, can_play, request
from websockets.exceptions import ConnectionClosed

PATHS = (
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/static/../../../../etc/passwd",
    "/static/..%2f..%2f..%2fetc/passwd",
    "/assets/%2e%2e/launch.py",
    "/svelte/x/..%2f..%2fserver.py",
    "/static//etc/passwd",
    "/assets/x/%00",
    "/theme.css/../../server.py",
    "/theme.css%00.py",
    "/stage/stage.js",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=play/launch.py",
    "/gradio_api/file=..%2f..%2fetc%2fpasswd",
    "/gradio_api/file/etc/passwd",
    "/recordings/x/dream.mp4",
)

BAD_MESSAGES = [
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
    '{"type": "step", "action": 7}',
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
BAD_MESSAGES += [json.dumps({"type": "start", **fields}) for fields in BAD_STARTS]


def test_no_path_leads_to_a_file_on_disk(address):
    for path in PATHS:
        status, _, body = request(address, path)
        assert status in (400, 403, 404) and b"root:" not in body and b"import" not in body, path


def test_only_get_and_post_requests_are_allowed(address):
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
        for path in ("/", "/theme.css", "/gradio_api/queue/join"):
            assert request(address, path, method, b"x" * 1000)[0] == 405
    assert request(address, "/theme.css", "POST", b"x" * 1000)[0] == 405


@pytest.mark.parametrize("first", range(0, len(BAD_MESSAGES), 6))  # more starts at once would be a flood
def test_bad_messages_are_reported_and_the_player_continues(play, first):
    client = play()
    client.start()
    for text in BAD_MESSAGES[first : first + 6]:
        client.socket.send(text)
        assert client.wait_for("error")["text"]
        assert client.step(("UP",)).header["action"] == 1


def test_images_of_the_wrong_size_are_reported(play):
    client = play()
    for size in (0, 1, 64 * 64 * 3 - 1, 64 * 64 * 3 + 1):
        client.socket.send(bytes(size))
        assert "expected 64x64 pixels" in client.wait_for("error")["text"]
    client.start()
    assert client.step().header["frame"] == 1


@pytest.mark.parametrize("content", [b"x" * 10_000_000, "x" * 1_000_000], ids=["bytes", "text"])
def test_oversized_messages_end_the_connection(address, content):
    with Client(address) as client:
        client.join()
        with pytest.raises(ConnectionClosed):
            client.socket.send(content)
            client.wait_for("never")
        assert client.socket.close_code in (1009, 1006)
    assert can_play(address)


def test_a_flood_ends_the_connection_and_others_continue(address):
    for message, fields, count in (("keys", {"held": ["UP"]}, 100_000), ("start", {"record": 0}, 500)):
        with Client(address) as other, Client(address) as flooder:
            other.join().start()
            other.send("pause", on=False)
            flooder.join().start()
            with pytest.raises(ConnectionClosed, match="too many messages"):
                for number in range(count):
                    flooder.send(message, number=number, **fields)
                flooder.wait_for("never")
            frames = [other.wait_for("frame").header["frame"] for _ in range(10)]
            assert frames == sorted(set(frames))


EVENTS = [  # of Gradio's queue, which anybody can send who may play
    {"data": [], "fn_index": 0, "session_hash": "x"},
    {"data": [None], "fn_index": 10**9, "session_hash": "x"},
    {"data": [], "event_data": {"place": "../../etc/passwd"}, "fn_index": "RECORDED", "session_hash": "x"},
    {"data": [], "event_data": {"place": None}, "fn_index": "RECORDED", "session_hash": "x"},
    {"data": "x", "fn_index": -1},
    {"fn_index": [1]},
]


def test_bad_events_of_gradios_queue_reveal_nothing(address):
    config = json.loads(request(address, "/config")[2])
    (recorded,) = (x["id"] for x in config["dependencies"] if any(t[1] == "recorded" for t in x["targets"]))
    for event in EVENTS:
        event = {name: recorded if value == "RECORDED" else value for name, value in event.items()}
        body, headers = json.dumps(event).encode(), {"Content-Type": "application/json"}
        status, _, body = request(address, "/gradio_api/queue/join", "POST", body, **headers)
        assert status < 600 and b"root:" not in body
    assert can_play(address)
