"""Playing, through the server's real socket."""

import contextlib
import json
import sys
import threading
import time
import types
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playing import Client, serving
from tiny import TINY, assert_one_line, command, random_model

from data.actions import UNKNOWN_ACTION, unnamed_actions
from data.dataset import ClipDataset
from data.metadata import read_metadata
from model import WorldModel
from play import launch, server
from play.actions import playable_actions
from play.launch import PlayConfig
from play.rollout_pool import Prompt, RolloutPool, RolloutSettings
from training.metrics import psnr

# What is seen


def test_players_are_not_told_where_files_are(play, play_config):
    assert play().hello["checkpoint"] == "/".join(Path(play_config.checkpoint).parts[-3:])


def test_greeting_tells_the_game_as_the_checkpoint_has_it(play):
    hello = play().hello
    assert hello["game"] == "pong" and (hello["height"], hello["width"], hello["channels"]) == (64, 64, 3)
    assert hello["keys"] == {"UP": "up", "DOWN": "down"} and hello["aliases"] == {"W": "UP", "S": "DOWN"}
    assert hello["num_records"] == 3 and hello["fps"] == 30 and hello["num_steps"] == 2


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
    step = RolloutPool.step

    def step_slowly(*arguments):
        ticks = step(*arguments)
        time.sleep(0.5)
        return ticks

    client = play()
    client.start(real=True)
    monkeypatch.setattr(RolloutPool, "step", step_slowly)
    client.send("step")
    time.sleep(0.2)
    client.send("real", on=False)
    frame = client.until("frame")
    assert len(frame.pictures) == 2 and not frame.header["real_ended"]
    assert len(client.step().pictures) == 1  # the server goes on


def test_frames_need_not_be_square_nor_keys_be_known(tmp_path, write_set, make_record, monkeypatch):
    metadata = replace(read_metadata(write_set(tmp_path / "set", [make_record(20)], "test")), frame_shape=(16, 24, 3))
    monkeypatch.setattr("conftest.TINY", metadata)
    record = make_record(20)
    record.frames = wide = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), np.uint8)
    data = write_set(tmp_path / "wide", [record], "test")
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


def test_who_finds_no_place_waits_and_comes_in_when_one_is_free(play_config):
    with serving(replace(play_config, max_players=1)) as address, Client(address) as first:
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


def test_who_comes_when_very_many_wait_is_sent_away(play_config, monkeypatch):
    monkeypatch.setattr(server, "MAX_WAITING", 0)
    with serving(replace(play_config, max_players=1)) as address, Client(address) as first:
        first.enter()
        with Client(address) as second, pytest.raises(Exception, match="too many are waiting"):
            second.enter()


def test_dreams_that_nobody_plays_pause_and_their_places_go_to_others(play_config, monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECS", 0.5)
    with serving(replace(play_config, max_players=1)) as address, Client(address) as first:
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


def test_places_in_samplers_are_taken_and_given_back(play_config):
    model = WorldModel.from_pretrained(play_config.checkpoint)
    dreams, prompt = RolloutPool(model, "x"), Prompt(np.zeros((2, 64, 64, 3), np.uint8), np.array([UNKNOWN_ACTION, 1]))
    quick, slow = RolloutSettings(1), RolloutSettings(2, guidance=2.0)
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


def test_a_failure_of_the_model_is_told_and_the_server_goes_on(play, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("out of memory")

    client, other = play(), play()
    client.start()
    with monkeypatch.context() as broken:
        broken.setattr(RolloutPool, "start", fail)
        client.send("start", record=0)
        assert "The server failed" in client.until("error")["text"]
    client.start()
    with monkeypatch.context() as broken:
        broken.setattr(RolloutPool, "step", fail)
        client.send("step")
        assert "The model failed" in client.until("paused")["reason"]
    client.start()
    other.start()
    assert client.step().header["frame"] == other.step().header["frame"] == 1
    assert "out of memory" in capsys.readouterr().err


# The command


def test_torch_works_in_one_thread_alone(play_config, monkeypatch):
    """In two, their OpenMP threads are more than there are cores, and a frame takes half as long again."""
    names, load, step = [], launch.load_weights, RolloutPool.step

    def current():
        names.append(threading.current_thread().name)

    monkeypatch.setattr(launch, "load_weights", lambda *arguments: current() or load(*arguments))
    monkeypatch.setattr(RolloutPool, "step", lambda *arguments: current() or step(*arguments))
    with serving(play_config) as address, Client(address) as client:
        client.enter().start()
        client.step()
    assert len(names) == 2 and len(set(names)) == 1 and names[0] != threading.main_thread().name


def test_benchmark_play_ends_in_json(play_config, pong_set, monkeypatch, capsys):
    options = (
        "--checkpoint",
        play_config.checkpoint,
        "--data",
        pong_set,
        "--seconds",
        2,
        "--players",
        2,
        "--num-steps",
        1,
    )
    code, out, err = command(monkeypatch, capsys, "scripts.benchmark", "play", *options)
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["players"] == 2 and results["fps"] == 15 and 0 <= results["dropped_share"] < 1
    for name in ("frames_per_sec_worst", "delay_ms_median", "model_ms_median", "secs_to_first_frame", "server_mib"):
        assert results[name] > 0
    code, _, err = command(monkeypatch, capsys, "scripts.benchmark", "play", *options, "--split", "none")
    assert_one_line(code, err, "none")
    code, _, err = command(monkeypatch, capsys, "scripts.benchmark", "play", *options, "--seconds", 0.01)
    assert_one_line(code, err, "give more --seconds")


def test_share_opens_a_tunnel_under_a_password(play_config, monkeypatch, capsys):
    asked = []
    gradio = types.ModuleType("gradio.networking")
    gradio.setup_tunnel = lambda *arguments: asked.append(arguments) or "https://abc.gradio.live"
    monkeypatch.setitem(sys.modules, "gradio.networking", gradio)
    monkeypatch.setenv("SECRET", "open sesame")
    with serving(replace(play_config, share=True, password_env="SECRET")) as address:
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
def test_play_mistakes(monkeypatch, capsys, play_config, pong_set, options, words):
    few = ("--checkpoint", play_config.checkpoint, "--data", pong_set, "--port", 0)
    assert_one_line(*command(monkeypatch, capsys, "scripts.play", *few, *options)[::2], *words)


def test_a_checkpoint_that_is_not_there_is_not_looked_for_on_the_hub(monkeypatch, capsys, tmp_path, pong_set):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, err = command(monkeypatch, capsys, "scripts.play", "--data", pong_set, "--port", 0)
    assert_one_line(code, err, "no checkpoint at checkpoints/coinrun-nano: train one")


def test_a_space_without_keys_is_played_by_names():
    space = playable_actions(random_model(replace(TINY, num_actions=4)))
    assert (
        space.names == unnamed_actions(4).names and space.action_for_keys(["2"]) == 2 and space.action_for_keys([]) == 0
    )


def test_likeness_is_psnr(play):
    client = play()
    client.start(real=True)
    frame = client.step()
    assert abs(frame.header["psnr"] - psnr(frame.pictures[0], frame.pictures[1])) < 0.1
