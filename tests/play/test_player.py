"""A player: what its messages do and which frames it gets, through the server's real websocket."""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playing import Client, Frame, serving
from tiny import CONTROLS, TINY, random_model

from dreamrun.data.atomic import write_json
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metrics import psnr
from dreamrun.model import WorldModel
from dreamrun.play.actions import parse_action, step_actions
from dreamrun.play.launch import PlayConfig
from dreamrun.play.rollout_pool import RolloutPool


def test_hello_describes_the_checkpoints_game_and_not_where_files_are(play, play_config):
    hello = play().hello
    assert hello["game"] == "pong" and (hello["height"], hello["width"], hello["channels"]) == (64, 64, 3)
    assert hello["keys"] == {"UP": "up", "DOWN": "down"} and hello["aliases"] == {"W": "UP", "S": "DOWN"}
    assert hello["num_records"] == 3 and hello["fps"] == 30 and hello["num_steps"] == 2
    assert hello["checkpoint"] == "/".join(Path(play_config.checkpoint).parts[-3:])


def test_a_rollout_starts_from_the_requested_moment(play, pong_set):
    client = play()
    records = list(ClipDataset(pong_set, "test", 1).records([1]))
    started = client.start(record=1, moment=7, seed=3, num_steps=1)
    assert (started["record"], started["moment"], started["seed"], started["num_steps"]) == (1, 7, 3, 1)
    assert started["prompt_frames"] == 5 and started["last_moment"] == len(records[0]) - 1
    np.testing.assert_array_equal(client.first_frame.pictures[0], records[0].frames[7])


def test_a_dream_has_the_guidance_of_the_checkpoint_unless_the_player_chooses(play_config, tmp_path):
    model = WorldModel.from_pretrained(play_config.checkpoint)
    model.config = replace(model.config, guidance=1.5)
    model.save_pretrained(tmp_path / "guided")
    with serving(replace(play_config, checkpoint=str(tmp_path / "guided"))) as address, Client(address) as client:
        client.join()
        for chosen, guidance in (({}, 1.5), ({"guidance": None}, 1.5), ({"guidance": 1}, 1)):
            assert client.start(**chosen)["guidance"] == guidance


def test_held_keys_act_in_every_frame_until_released(play):
    client = play()
    client.start()
    client.send("keys", held=["W"], number=5)
    client.send("pause", on=False)
    held = [client.wait_for("frame") for _ in range(6)]
    assert [frame.header["action"] for frame in held] == [1] * 6 and held[-1].header["keys"] == 5
    client.send("keys", held=[], number=6)
    after = [client.wait_for("frame") for _ in range(10)]
    assert after[-1].header["keys"] == 6 and after[-1].header["action"] == 0
    numbers = [frame.header["frame"] for frame in held + after]
    assert numbers == sorted(set(numbers))


def test_a_paused_rollout_advances_only_by_single_steps(play):
    client = play()
    client.start()
    client.send("pause", on=False)
    client.wait_for("frame")
    client.send("pause", on=True)
    client.wait_for("paused")
    with contextlib.suppress(TimeoutError):
        while True:  # frames that were on their way
            client.receive(0.3)
    before = client.step().header["frame"]
    assert client.step().header["frame"] == before + 1
    with pytest.raises(TimeoutError):
        client.receive(0.3)


def test_a_step_names_its_action_and_generates_exactly_one_frame(play):
    client = play()
    client.start()
    client.send("keys", held=["UP"], number=1)  # the named action counts, not the held key
    client.send("step", action="down")
    frame = client.wait_for("frame")
    assert (frame.header["frame"], frame.header["action"]) == (1, 2)
    client.send("pause", on=False)
    client.wait_for("frame")
    client.send("step", action="noop")  # pauses first
    frames = []
    with pytest.raises(TimeoutError):
        while True:
            message = client.receive(0.5)
            frames += [message.header] if isinstance(message, Frame) else []
    assert frames[-1]["action"] == 0 and all(frame["action"] == 1 for frame in frames[:-1])
    client.send("pause", on=False)
    client.wait_for("frame")
    client.send("step")  # under the held keys; it pauses, too
    assert client.wait_for("paused")["on"]
    with pytest.raises(TimeoutError):
        while True:
            message = client.receive(0.5)
            frames += [message.header] if isinstance(message, Frame) else []
    for name in ("fly", 3, "x" * 999):
        client.send("step", action=name)
        assert client.wait_for("error")["text"]
    assert client.step().header["frame"] == frames[-1]["frame"] + 1


def test_axes_are_stepped_in_both_directions_within_bounds():
    assert step_actions(CONTROLS)[0] == "noop" and {"dx=-1", "dx=1", "jump"} <= set(step_actions(CONTROLS))
    for name in step_actions(CONTROLS):
        assert np.isfinite(parse_action(name, CONTROLS)).all()
    for name in ("dx=nan", "dx=inf", "dx=11", "dx=x"):
        with pytest.raises(ValueError):
            parse_action(name, CONTROLS)


def test_half_speed_uses_every_second_tick(play):
    client = play()
    client.start()
    client.send("speed", every=2)
    client.send("pause", on=False)
    ticks = [client.wait_for("frame").header["tick"] for _ in range(6)]
    assert all(tick % 2 == 0 for tick in ticks)


def test_a_rollout_starts_from_the_players_image(play):
    client = play()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    client.socket.send(image.tobytes())
    client.wait_for("image")
    started = client.start(record=None, real=True)
    np.testing.assert_array_equal(client.first_frame.pictures[0], image)
    assert started["prompt_frames"] == 1 and "no real game" in started["why_no_real_game"]
    assert client.step().header["frame"] == 1
    client.send("real", on=True)
    assert "no real game for your own image" in client.wait_for("error")["text"]


def test_the_real_game_continues_from_the_prompt_with_the_same_actions(play, pong_set):
    client = play()
    (truth,) = ClipDataset(pong_set, "test", 1).records([2])
    client.start(record=2, moment=20)
    keys = {0: (), 1: ("UP",), 2: ("DOWN",)}
    client.step(keys[int(truth.actions[20])])
    client.send("real", on=True)  # in the middle of a rollout
    real = client.wait_for("real")
    assert real.header["on"] and not real.header["real_ended"]
    np.testing.assert_array_equal(real.pictures[0], truth.frames[21])  # at once, although the dream is paused
    shown = []
    for t in range(21, 30):
        frame = client.step(keys[int(truth.actions[t])])
        assert len(frame.pictures) == 2
        np.testing.assert_array_equal(frame.pictures[1], truth.frames[t + 1])
        shown.append(frame.pictures)
    assert abs(frame.header["psnr"] - psnr(*np.stack(shown, axis=1))) < 0.1 and not frame.header["real_ended"]
    client.send("real", on=False)
    real = client.wait_for("real")
    assert not real.header["on"] and len(real.pictures) == 0
    assert len(client.step().pictures) == 1
    (other,) = ClipDataset(pong_set, "test", 1).records([1])
    assert not client.start(record=1, moment=9)["real"]
    client.send("real", on=True)
    np.testing.assert_array_equal(client.wait_for("real").pictures[0], other.frames[9])
    assert client.start(record=2, moment=20, real=True)["real"]
    np.testing.assert_array_equal(client.first_frame.pictures[1], truth.frames[20])


def test_the_real_game_can_be_switched_off_during_a_step(play, monkeypatch):
    step = RolloutPool.step

    def step_slowly(*arguments):
        results = step(*arguments)
        time.sleep(0.5)
        return results

    client = play()
    client.start(real=True)
    monkeypatch.setattr(RolloutPool, "step", step_slowly)
    client.send("step")
    time.sleep(0.2)
    client.send("real", on=False)
    frame = client.wait_for("frame")
    assert len(frame.pictures) == 2 and not frame.header["real_ended"]
    assert len(client.step().pictures) == 1  # the server continues


def test_frames_that_are_not_square_and_actions_without_keys(tmp_path, write_set, make_record, tiny_metadata):
    record = make_record(20)
    record.frames = wide = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), np.uint8)
    data = write_set(tmp_path / "wide", [record], "test")
    write_json(data / "metadata.json", replace(tiny_metadata, frame_shape=(16, 24, 3)).to_dict())
    random_model(replace(TINY, num_actions=5)).save_pretrained(tmp_path / "wide_model")
    config = PlayConfig(checkpoint=str(tmp_path / "wide_model"), data=data, port=0, num_steps=1)
    with serving(config) as address, Client(address) as client:
        client.join()
        assert (client.hello["height"], client.hello["width"]) == (16, 24)
        assert client.hello["keys"] == {str(n): str(n) for n in range(5)}
        client.start()
        np.testing.assert_array_equal(client.first_frame.pictures[0], wide[10])
        assert client.step(("3",)).header["action"] == 3
