"""Playing, through the server's real socket."""

import contextlib
import json
import sys
import threading
import time
import types
import urllib.request
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from playing import Client, Frame, random_checkpoint, serving
from tiny import TINY, assert_one_line, command, random_model

from data.actions import NO_ACTION, numbered
from data.dataset import ClipDataset
from data.shards import read_metadata
from model import WorldModel
from play import launch, recording, server
from play.actions import playable_actions
from play.dreams import Dreams, DreamSettings, Prompt, hash_weights
from play.follow import Follower
from play.launch import PlayConfig
from play.recording import Recording
from play.replay import Replay
from training.distributed import for_dreaming
from training.evaluate import psnr

SLOW_FPS = 30.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, pong_set):
    return random_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random", pong_set)


@pytest.fixture(scope="module")
def config(checkpoint, pong_set):
    return PlayConfig(checkpoint=str(checkpoint), data=pong_set, port=0, fps=SLOW_FPS, num_steps=2, max_players=3)


@pytest.fixture(scope="module")
def address(config):
    with serving(config) as address:
        yield address


@pytest.fixture
def play(address):
    """play(): a client that has a place. All hang up at the end."""
    with contextlib.ExitStack() as clients:
        yield lambda: clients.enter_context(Client(address)).enter()


def ready(model: WorldModel) -> WorldModel:
    """As the server dreams with it."""
    return for_dreaming(model, torch.device("cpu"))


def fetch(address: str, path: str) -> bytes:
    with urllib.request.urlopen(address + path, timeout=10) as answer:
        return answer.read()


def record(client: Client, num_frames: int, keys=("UP", "DOWN")) -> tuple[dict, list[Frame]]:
    """Record some steps; the message with the files' place, and the frames."""
    client.send("record", on=True)
    client.until("recording")
    frames = [client.step((keys[number % len(keys)],)) for number in range(num_frames)]
    client.send("record", on=False)
    return client.until("recorded"), frames


# What is seen


def test_players_are_not_told_where_files_are(play, checkpoint):
    assert play().hello["checkpoint"] == "/".join(checkpoint.parts[-3:])


def test_greeting_tells_the_game_as_the_checkpoint_has_it(play):
    hello = play().hello
    assert hello["game"] == "pong" and (hello["height"], hello["width"], hello["channels"]) == (64, 64, 3)
    assert hello["keys"] == {"UP": "up", "DOWN": "down"} and hello["aliases"] == {"W": "UP", "S": "DOWN"}
    assert hello["num_records"] == 3 and hello["fps"] == SLOW_FPS and hello["num_steps"] == 2


def test_a_dream_begins_from_the_moment_asked_for(play, pong_set):
    client = play()
    records = list(ClipDataset(pong_set, "test", 1).records([1]))
    started = client.start(record=1, moment=7, seed=3, num_steps=1)
    assert (started["record"], started["moment"], started["seed"], started["num_steps"]) == (1, 7, 3, 1)
    assert started["prompt_frames"] == 5 and started["last_moment"] == len(records[0]) - 1
    np.testing.assert_array_equal(client.first.pictures[0], records[0].frames[7])


def test_held_keys_act_in_every_frame_and_released_ones_no_more(play):
    client = play()
    client.start()
    client.send("keys", held=["W"], number=5)
    client.send("pause", on=False)
    held = [client.until("frame") for _ in range(6)]
    assert [frame.header["action"] for frame in held] == [1] * 6 and held[-1].header["keys"] == 5
    client.send("keys", held=[], number=6)
    after = [client.until("frame") for _ in range(10)]
    assert after[-1].header["keys"] == 6 and after[-1].header["action"] == 0
    numbers = [frame.header["frame"] for frame in held + after]
    assert numbers == sorted(set(numbers))


def test_other_keys_make_another_dream_and_the_same_ones_the_same(play):
    client = play()

    def dream(key):
        client.start(seed=11)
        return np.stack([client.step((key,)).pictures[0] for _ in range(4)])

    up, again, down = dream("UP"), dream("UP"), dream("DOWN")
    np.testing.assert_array_equal(up, again)
    assert np.abs(up.astype(int) - down).max() > 20


def test_a_paused_dream_stands_still_but_for_single_steps(play):
    client = play()
    client.start()
    client.send("pause", on=False)
    client.until("frame")
    client.send("pause", on=True)
    client.until("paused")
    with contextlib.suppress(TimeoutError):
        while True:  # what was under way
            client.receive(0.3)
    before = client.step().header["frame"]
    assert client.step().header["frame"] == before + 1
    with pytest.raises(TimeoutError):
        client.receive(0.3)


def test_half_speed_makes_every_second_tick(play):
    client = play()
    client.start()
    client.send("speed", every=2)
    client.send("pause", on=False)
    ticks = [client.until("frame").header["tick"] for _ in range(6)]
    assert all(tick % 2 == 0 for tick in ticks)


def test_an_image_of_ones_own_is_dreamt_on_from(play):
    client = play()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    client.socket.send(image.tobytes())
    client.until("image")
    started = client.start(record=None, real=True)
    np.testing.assert_array_equal(client.first.pictures[0], image)
    assert started["prompt_frames"] == 1 and "no real game" in started["why_no_real_game"]
    assert client.step().header["frame"] == 1


def test_the_real_game_goes_along_from_the_moment_of_the_prompt(play, pong_set):
    client = play()
    (truth,) = ClipDataset(pong_set, "test", 1).records([2])
    client.start(record=2, moment=20)
    keys = {0: (), 1: ("UP",), 2: ("DOWN",)}
    client.step(keys[int(truth.actions[20])])
    client.send("real", on=True)  # also in the middle of a dream
    assert client.until("real")["on"]
    for t in range(21, 30):
        frame = client.step(keys[int(truth.actions[t])])
        assert len(frame.pictures) == 2
        np.testing.assert_array_equal(frame.pictures[1], truth.frames[t + 1])
    assert frame.header["psnr"] <= 99 and not frame.header["real_ended"]
    client.send("real", on=False)
    assert not client.until("real")["on"]
    assert len(client.step().pictures) == 1


def test_the_real_game_can_be_switched_off_while_a_frame_is_being_made(play, monkeypatch):
    step = Dreams.step

    def step_slowly(*arguments):
        ticks = step(*arguments)
        time.sleep(0.5)
        return ticks

    client = play()
    client.start(real=True)
    monkeypatch.setattr(Dreams, "step", step_slowly)
    client.send("step")
    time.sleep(0.2)
    client.send("real", on=False)
    frame = client.until("frame")
    assert len(frame.pictures) == 2 and not frame.header["real_ended"]
    assert len(client.step().pictures) == 1  # the server goes on


def test_frames_need_not_be_square_nor_keys_be_known(tmp_path, write_set, make_record, monkeypatch):
    metadata = replace(read_metadata(write_set(tmp_path / "set", [make_record(20)], "test")), frame_shape=(16, 24, 3))
    monkeypatch.setattr("conftest.TINY", metadata)
    shutil_records = [make_record(20)]
    wide = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), np.uint8)
    shutil_records[0].frames = wide
    data = write_set(tmp_path / "wide", shutil_records, "test")
    (data / "metadata.json").write_text(json.dumps(metadata.to_dict()))
    random_model(replace(TINY, num_actions=5)).save_pretrained(tmp_path / "wide_model")
    config = PlayConfig(checkpoint=str(tmp_path / "wide_model"), data=data, port=0, num_steps=1)
    with serving(config) as address, Client(address) as client:
        client.enter()
        assert (client.hello["height"], client.hello["width"]) == (16, 24)
        assert client.hello["keys"] == {str(n): str(n) for n in range(5)}
        client.start()
        np.testing.assert_array_equal(client.first.pictures[0], wide[10])
        assert client.step(("3",)).header["action"] == 3


# Many players


def test_players_dream_on_their_own_and_share_batches(play):
    one, two = play(), play()
    for client, key in ((one, "UP"), (two, "DOWN")):
        client.start(seed=1)
        client.send("keys", held=[key], number=1)
        client.send("pause", on=False)
    frames = [[client.until("frame") for _ in range(12)] for client in (one, two)]
    assert {frame.header["action"] for frame in frames[0]} == {1}
    assert {frame.header["action"] for frame in frames[1]} == {2}
    assert max(frame.header["together"] for frame in frames[0]) == 2


def test_who_finds_no_place_waits_and_comes_in_when_one_is_free(config):
    with serving(replace(config, max_players=1)) as address, Client(address) as first:
        first.enter()
        first.start()
        with Client(address) as second, Client(address) as third:
            assert second.until("wait")["ahead"] == 0
            assert third.until("wait")["ahead"] == 1
            second.send("start", record=0)  # does nothing
            left = time.monotonic()
            first.socket.close()
            second.enter()
            assert time.monotonic() - left < 3
            assert third.until("wait")["ahead"] == 0
            second.start()
            assert second.step().header["frame"] == 1


def test_who_comes_when_very_many_wait_is_sent_away(config, monkeypatch):
    monkeypatch.setattr(server, "MAX_WAITING", 0)
    with serving(replace(config, max_players=1)) as address, Client(address) as first:
        first.enter()
        with Client(address) as second, pytest.raises(Exception, match="too many are waiting"):
            second.enter()


def test_dreams_that_nobody_plays_pause_and_their_places_go_to_others(config, monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECS", 0.5)
    with serving(replace(config, max_players=1)) as address, Client(address) as first:
        first.enter()
        first.start()
        first.send("pause", on=False)
        first.until("frame")
        while "no key was pressed" not in first.until("paused")["reason"]:
            pass  # the answer to our own going on comes first
        monkeypatch.setattr(server, "LEAVE_SECS", 0.5)
        with Client(address) as second:
            second.enter()
            with pytest.raises(Exception, match="somebody who was waiting"):
                while True:
                    first.receive()


def test_places_in_samplers_are_taken_and_given_back(checkpoint):
    model = WorldModel.from_pretrained(checkpoint).eval()
    dreams, prompt = Dreams(model, "x"), Prompt(np.zeros((2, 64, 64, 3), np.uint8), np.array([NO_ACTION, 1]))
    quick, slow = DreamSettings(1), DreamSettings(2, guidance=2.0)
    a, b, c = dreams.start(prompt, 0, quick), dreams.start(prompt, 1, quick), dreams.start(prompt, 2, slow)
    assert (a.slot, b.slot, c.slot) == (0, 1, 0)
    ticks = dreams.step([(c, 1), (b, 2), (a, 0)])
    assert [tick.action for tick in ticks] == [1, 2, 0] and list(b.actions) == [2]
    dreams.end(a)
    dreams.end(a)
    assert dreams.start(prompt, 3, quick).slot == 0 and len(dreams) == 3
    for dream in (b, c):
        dreams.end(dream)
    assert len(dreams) == 1 and list(dreams._samplers) == [quick]
    with pytest.raises(ValueError, match="prompt of shape"):
        dreams.start(replace(prompt, frames=np.zeros((2, 8, 8, 3), np.uint8)), 0, slow)
    assert len(dreams) == 1 and list(dreams._samplers) == [quick]


# Recordings


def test_a_recording_can_be_seen_and_dreamt_again(play, address, checkpoint, tmp_path):
    client = play()
    client.start(seed=5, num_steps=2, guidance=1.5)
    for key in ("UP", "UP", "DOWN"):
        client.step((key,))
    recorded, frames = record(client, 8)
    assert recorded["frames"] == 8 and recorded["files"] == ["dream.json", "dream.mp4"]
    (tmp_path / "dream.mp4").write_bytes(fetch(address, f"/recordings/{recorded['place']}/dream.mp4"))
    with av.open(str(tmp_path / "dream.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 8
    (tmp_path / "dream.json").write_bytes(fetch(address, f"/recordings/{recorded['place']}/dream.json"))
    model = WorldModel.from_pretrained(checkpoint)
    replay = Replay.read(tmp_path / "dream.json", model.config)
    assert replay.seed == 5 and replay.settings == DreamSettings(2, 1.5) and replay.weights == hash_weights(model)
    assert replay.actions.tolist() == [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2] and replay.first == 3
    seen = np.stack([frame.pictures[0] for frame in frames])
    assert np.abs(replay.dream(ready(model)).astype(int) - seen).max() <= 1
    assert seen.std() > 5 and np.abs(np.diff(seen.astype(int), axis=0)).max() > 5


def test_a_recording_begun_and_ended_while_frames_come_is_the_same_again(play, address, checkpoint, tmp_path):
    client, seen = play(), {}
    client.start(seed=2)
    client.send("pause", on=False)

    def look(message=None):
        frame = message or client.until("frame")
        if isinstance(frame, Frame):
            seen[frame.header["frame"]] = frame.pictures[0]

    for number in range(12):
        client.send("keys", held=[("UP", "DOWN")[number % 2]], number=number)
        look()
        if number == 4:
            client.send("record", on=True)
            client.until("recording", look)
    client.send("record", on=False)
    recorded = client.until("recorded", look)
    (tmp_path / "dream.json").write_bytes(fetch(address, f"/recordings/{recorded['place']}/dream.json"))
    model = WorldModel.from_pretrained(checkpoint)
    replay = Replay.read(tmp_path / "dream.json", model.config)
    again = replay.dream(ready(model))
    assert len(again) == recorded["frames"] >= 5
    both = [number for number in range(len(again)) if replay.first + 1 + number in seen]
    assert len(both) >= 5
    for number in both:
        assert np.abs(again[number].astype(int) - seen[replay.first + 1 + number]).max() <= 1


def test_a_failure_of_the_model_is_told_and_the_server_goes_on(play, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("out of memory")

    client, other = play(), play()
    client.start()
    with monkeypatch.context() as broken:
        broken.setattr(Dreams, "start", fail)
        client.send("start", record=0)
        assert "The server failed" in client.until("error")["text"]
    client.start()
    with monkeypatch.context() as broken:
        broken.setattr(Dreams, "step", fail)
        client.send("step")
        assert "The model failed" in client.until("paused")["reason"]
    client.start()
    other.start()
    assert client.step().header["frame"] == other.step().header["frame"] == 1
    assert "out of memory" in capsys.readouterr().err


def test_a_recording_made_in_company_is_dreamt_again_within_a_grey_level(play, address, checkpoint, tmp_path):
    company, client = play(), play()
    company.start(seed=1)
    company.send("pause", on=False)
    client.start(seed=2)
    recorded, frames = record(client, 10)
    assert max(frame.header["together"] for frame in frames) == 2
    (tmp_path / "dream.json").write_bytes(fetch(address, f"/recordings/{recorded['place']}/dream.json"))
    model = WorldModel.from_pretrained(checkpoint)
    again = Replay.read(tmp_path / "dream.json", model.config).dream(ready(model))
    assert np.abs(again.astype(int) - np.stack([frame.pictures[0] for frame in frames])).max() <= 1


def test_infer_replays_a_recording(play, address, checkpoint, tmp_path, monkeypatch, capsys):
    client = play()
    client.start(seed=5)
    recorded, frames = record(client, 6)
    path = tmp_path / "dream.json"
    path.write_bytes(fetch(address, f"/recordings/{recorded['place']}/dream.json"))
    shown = []
    monkeypatch.setattr(
        "scripts.infer.dream_video", lambda *arguments: shown.append(arguments) or np.zeros((1, 2, 2, 3), np.uint8)
    )
    options = ("--replay", path, "--output", tmp_path / "again.mp4", "--checkpoint")
    code, out, err = command(monkeypatch, capsys, "scripts.infer", *options, checkpoint)
    assert code == 0 and "again.mp4: 6 frames" in out, err
    assert np.abs(shown[0][0].astype(int) - np.stack([frame.pictures[0] for frame in frames])).max() <= 1
    assert shown[0][1].tolist() == [1, 2, 1, 2, 1, 2]
    random_model(WorldModel.from_pretrained(checkpoint).config, seed=9).save_pretrained(tmp_path / "other")
    code, _, err = command(monkeypatch, capsys, "scripts.infer", *options, tmp_path / "other")
    assert_one_line(code, err, "another checkpoint", checkpoint.name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "x"}, "its format is 'x'"),
        ({"actions": [0, 7]}, "numbers from 0 to 2"),
        ({"actions": []}, "not all of its actions are known"),
        ({"first_recorded": 99}, "first_recorded is 99"),
        ({"seed": None}, "TypeError"),
        ({"prompt": {}}, "KeyError"),
        ({"prompt": {"shape": [1, 8, 8, 3]}}, "which does not fit"),
        ({"prompt": {"shape": [99, 64, 64, 3]}}, "which does not fit"),
        ({"prompt": {"frames": "AAAA", "actions": [-1], "shape": [1, 64, 64, 3]}}, "not a replay that fits"),
    ],
)
def test_files_that_are_no_replays(checkpoint, tmp_path, change, words):
    model = WorldModel.from_pretrained(checkpoint)
    prompt = Prompt(np.zeros((1, 64, 64, 3), np.uint8), np.array([NO_ACTION]))
    fields = json.loads(Replay(prompt, 0, DreamSettings(1), 0.02, "x", np.array([0, 1]), 0).to_json())
    path = tmp_path / "dream.json"
    path.write_text(json.dumps(fields))
    assert Replay.read(path, model.config).actions.tolist() == [0, 1]
    path.write_text(json.dumps(fields | change))
    with pytest.raises(ValueError, match=words):
        Replay.read(path, model.config)


def test_a_recording_ends_by_itself(play, monkeypatch):
    monkeypatch.setattr(recording, "MAX_FRAMES", 3)
    client = play()
    client.start()
    client.send("record", on=True)
    for _ in range(3):
        client.step()
    assert client.until("recorded")["frames"] == 3


def test_the_real_game_is_recorded_above_the_dream(play, address, tmp_path):
    client = play()
    client.start(real=True)
    assert len(client.first.pictures) == 2
    recorded, _ = record(client, 3)
    (tmp_path / "dream.mp4").write_bytes(fetch(address, f"/recordings/{recorded['place']}/dream.mp4"))
    with av.open(str(tmp_path / "dream.mp4")) as video:
        assert video.streams.video[0].height > 2 * 64 * 4


def test_recordings_go_with_their_player(play, address):
    client = play()
    client.start()
    place = record(client, 2)[0]["place"]
    assert fetch(address, f"/recordings/{place}/dream.json")
    client.close()
    time.sleep(0.5)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(address, f"/recordings/{place}/dream.json")


# Following a run


def test_newer_weights_are_taken_over_and_players_stay(tmp_path, pong_set, config, monkeypatch):
    monkeypatch.setattr(Follower, "POLL_SECS", 0.1)
    checkpoints = tmp_path / "run" / "checkpoints"
    random_checkpoint(checkpoints / "step_1", pong_set, seed=1)
    random_checkpoint(checkpoints / "step_2", pong_set, seed=2)
    (checkpoints / "latest").symlink_to("step_1")
    with serving(replace(config, checkpoint=str(tmp_path / "run"), follow=True)) as address, Client(address) as client:
        client.enter()
        client.start(seed=1)
        before = client.step(("UP",)).header["frame"]
        (checkpoints / "step_3").mkdir()  # damaged ones are passed over
        for name in ("step_3", "step_2"):
            (checkpoints / "link").symlink_to(name)
            (checkpoints / "link").rename(checkpoints / "latest")
            time.sleep(0.5)
        assert client.until("weights")["checkpoint"].endswith("step_2")
        followed = client.step(("UP",))
        assert followed.header["frame"] == before + 1
        recorded, _ = record(client, 2)
        assert recorded["files"] == ["dream.mp4"] and "newer weights" in recorded["note"]
        client.start(seed=1)
        assert record(client, 2)[0]["files"] == ["dream.json", "dream.mp4"]


# The command


def test_torch_works_in_one_thread_alone(config, monkeypatch):
    """In two, their OpenMP threads are more than there are cores, and a frame takes half as long again."""
    names, load, step = [], launch.load_weights, Dreams.step

    def current():
        names.append(threading.current_thread().name)

    monkeypatch.setattr(launch, "load_weights", lambda *arguments: current() or load(*arguments))
    monkeypatch.setattr(Dreams, "step", lambda *arguments: current() or step(*arguments))
    with serving(config) as address, Client(address) as client:
        client.enter().start()
        client.step()
    assert len(names) == 2 and len(set(names)) == 1 and names[0] != threading.main_thread().name


def test_benchmark_play_ends_in_json(checkpoint, pong_set, monkeypatch, capsys):
    options = ("--checkpoint", checkpoint, "--data", pong_set, "--seconds", 2, "--players", 2, "--num-steps", 1)
    code, out, err = command(monkeypatch, capsys, "scripts.benchmark", "play", *options)
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["players"] == 2 and results["fps"] == 15 and 0 <= results["dropped_share"] < 1
    for name in ("frames_per_sec_worst", "delay_ms_median", "model_ms_median", "secs_to_first_frame", "server_mib"):
        assert results[name] > 0
    code, _, err = command(monkeypatch, capsys, "scripts.benchmark", "play", *options, "--split", "none")
    assert_one_line(code, err, "none")


def test_share_opens_a_tunnel_under_a_password(config, monkeypatch, capsys):
    asked = []
    gradio = types.ModuleType("gradio.networking")
    gradio.setup_tunnel = lambda *arguments: asked.append(arguments) or "https://abc.gradio.live"
    monkeypatch.setitem(sys.modules, "gradio.networking", gradio)
    monkeypatch.setenv("SECRET", "open sesame")
    with serving(replace(config, share=True, password_env="SECRET")) as address:
        port = int(address.rsplit(":", 1)[1])
        assert asked[0][:2] == ("127.0.0.1", port)
        assert "shared at https://abc.gradio.live" in capsys.readouterr().out
        request = urllib.request.Request(address, headers={"Host": "abc.gradio.live"})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoint", "nowhere/at/all"), ("no checkpoint at nowhere/at/all",)),
        (("--data", "nowhere"), ("no data set at nowhere",)),
        (("--split", "holdout"), ("holdout",)),
        (("--host", "0.0.0.0"), ("--host 0.0.0.0 lets others in", "--password-env", "--no-password")),
        (("--share",), ("--share lets others in",)),
        (("--password-env", "NOT_SET"), ("NOT_SET", "not set")),
        (("--password-env", "X", "--no-password"), ("contradict",)),
        (("--port", 99999), ("port is 99999",)),
        (("--fps", 0), ("fps is 0",)),
        (("--num-steps", 0), ("num_steps is 0",)),
        (("--max-players", 0), ("max_players is 0",)),
        (("--follow",), ("nothing to follow",)),
        (("--host", "203.0.113.7", "--no-password"), ("cannot listen on 203.0.113.7",)),
    ],
)
def test_play_mistakes(monkeypatch, capsys, checkpoint, pong_set, options, words):
    few = ("--checkpoint", checkpoint, "--data", pong_set, "--port", 0)
    assert_one_line(*command(monkeypatch, capsys, "scripts.play", *few, *options)[::2], *words)


def test_a_checkpoint_that_is_not_there_is_not_looked_for_on_the_hub(monkeypatch, capsys, tmp_path, pong_set):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, err = command(monkeypatch, capsys, "scripts.play", "--data", pong_set)
    assert_one_line(code, err, "no checkpoint at checkpoints/coinrun-nano: train one", "--checkpoint")


def test_a_space_without_keys_is_played_by_names():
    space = playable_actions(replace(TINY, num_actions=4))
    assert space.names == numbered(4).names and space.action_for_keys(["2"]) == 2 and space.action_for_keys([]) == 0


def test_likeness_is_psnr(play):
    client = play()
    client.start(real=True)
    frame = client.step()
    assert abs(frame.header["psnr"] - psnr(frame.pictures[0], frame.pictures[1])) < 0.1


def test_a_recording_keeps_its_dream(checkpoint):
    model = WorldModel.from_pretrained(checkpoint)
    dreams, prompt = Dreams(model, "x"), Prompt(np.zeros((2, 64, 64, 3), np.uint8), np.array([NO_ACTION, 1]))
    dream = dreams.start(prompt, 0, DreamSettings(1))
    dreams.step([(dream, 1)])
    kept = Recording(dream)
    assert kept.add(dreams.step([(dream, 2)])[0]) and kept.ticks[0].place == 1
    dreams.end(dream)
    assert Replay.of(kept.dream, 1, 2, "name").actions.tolist() == [1, 2]
