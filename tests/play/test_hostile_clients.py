"""Hostile clients: the server stays up, reveals nothing, and other players keep playing."""

import json

import pytest
from playing import Client, can_play, request
from websockets.exceptions import ConnectionClosed

PATHS = """
/../../../../etc/passwd /%2e%2e/%2e%2e/%2e%2e/etc/passwd //etc/passwd /recordings/x/dream.mp4 /stage/stage.js
/static/../../../../etc/passwd /static/..%2f..%2f..%2fetc/passwd /static//etc/passwd /svelte/x/..%2f..%2fserver.py
/assets/%2e%2e/launch.py /assets/x/%00 /theme.css/../../server.py /theme.css%00.py /gradio_api/file=/etc/passwd
/gradio_api/file=play/launch.py /gradio_api/file=..%2f..%2fetc%2fpasswd /gradio_api/file/etc/passwd
"""

BAD_MESSAGES = [
    "",
    "x",
    "[]",
    "{}",
    "null",
    "[" * 4000,
    '{"type": 3}',
    '{"type": "fly"}',
    '{"type": "step", "action": 7}',
]
BAD_FIELDS = {
    "keys": {"held": ("UP", [1, 2], ["UP"] * 17, ["U" * 99], None), "number": (float("inf"), "1")},
    "speed": {"every": (0, True)},
    "pause": {"on": ("yes",)},
    "record": {"on": (1,)},
    "real": {"on": ("../../etc/passwd",)},
    "step": {"action": (7,)},
    "start": {
        "record": ("../../etc/passwd", -1, 3, 0.5, None),
        "moment": (-1, 10**9, "../x"),
        "seed": (-1, 2**31, "/etc/passwd"),
        "num_steps": (0, 1000, [1]),
        "guidance": (-1, 1e9, float("nan")),
    },
}
for kind, fields in BAD_FIELDS.items():
    sound = {"type": kind, "held": [], "record": 0}
    BAD_MESSAGES += [json.dumps({**sound, name: value}) for name, values in fields.items() for value in values]


def test_no_path_leads_to_a_file_on_disk(address):
    for path in PATHS.split():
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
