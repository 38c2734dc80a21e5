"""What players keep of a dream: videos, and files from which the same frames are made again."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from playing import Client, Frame, random_checkpoint, serving
from tiny import assert_one_line, command, random_model

from data.actions import UNKNOWN_ACTION
from model import WorldModel
from play import recording
from play.follow import Follower
from play.recording import Recording
from play.replay import Replay
from play.rollout_pool import Prompt, RolloutPool, RolloutSettings
from training.checkpoint import hash_weights
from training.device import prepare_for_inference


@pytest.fixture
def model(play_config):
    return WorldModel.from_pretrained(play_config.checkpoint)


def ready(model: WorldModel) -> WorldModel:
    """As the server dreams with it."""
    return prepare_for_inference(model, torch.device("cpu"))


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


def test_a_recording_can_be_seen_and_dreamt_again(play, address, model, tmp_path):
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
    replay = Replay.read(tmp_path / "dream.json", model)
    assert replay.seed == 5 and replay.settings == RolloutSettings(2, 1.5) and replay.weights == hash_weights(model)
    assert replay.actions.tolist() == [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2] and replay.first == 3
    seen = np.stack([frame.pictures[0] for frame in frames])
    assert np.abs(replay.dream(ready(model)).astype(int) - seen).max() <= 1
    assert seen.std() > 5 and np.abs(np.diff(seen.astype(int), axis=0)).max() > 5


def test_a_recording_begun_and_ended_while_frames_come_is_the_same_again(play, address, model, tmp_path):
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
    replay = Replay.read(tmp_path / "dream.json", model)
    again = replay.dream(ready(model))
    assert len(again) == recorded["frames"] >= 5
    both = [number for number in range(len(again)) if replay.first + 1 + number in seen]
    assert len(both) >= 5
    for number in both:
        assert np.abs(again[number].astype(int) - seen[replay.first + 1 + number]).max() <= 1


def test_a_recording_made_in_company_is_dreamt_again_within_a_grey_level(play, address, model, tmp_path):
    company, client = play(), play()
    company.start(seed=1)
    company.send("pause", on=False)
    client.start(seed=2)
    recorded, frames = record(client, 10)
    assert max(frame.header["together"] for frame in frames) == 2
    (tmp_path / "dream.json").write_bytes(fetch(address, f"/recordings/{recorded['place']}/dream.json"))
    again = Replay.read(tmp_path / "dream.json", model).dream(ready(model))
    assert np.abs(again.astype(int) - np.stack([frame.pictures[0] for frame in frames])).max() <= 1


def test_infer_replays_a_recording(play, address, play_config, model, tmp_path, monkeypatch, capsys):
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
    code, out, err = command(monkeypatch, capsys, "scripts.infer", *options, play_config.checkpoint)
    assert code == 0 and "again.mp4: 6 frames" in out, err
    assert np.abs(shown[0][0].astype(int) - np.stack([frame.pictures[0] for frame in frames])).max() <= 1
    assert shown[0][1].tolist() == [1, 2, 1, 2, 1, 2]
    random_model(model.config, seed=9).save_pretrained(tmp_path / "other")
    code, _, err = command(monkeypatch, capsys, "scripts.infer", *options, tmp_path / "other")
    assert_one_line(code, err, "another checkpoint", Path(play_config.checkpoint).name)


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
def test_files_that_are_no_replays(model, tmp_path, change, words):
    prompt = Prompt(np.zeros((1, 64, 64, 3), np.uint8), np.array([UNKNOWN_ACTION]))
    fields = json.loads(Replay(prompt, 0, RolloutSettings(1), 0.02, "x", np.array([0, 1]), 0).to_json())
    path = tmp_path / "dream.json"
    path.write_text(json.dumps(fields))
    assert Replay.read(path, model).actions.tolist() == [0, 1]
    path.write_text(json.dumps(fields | change))
    with pytest.raises(ValueError, match=words):
        Replay.read(path, model)


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


def test_a_recording_keeps_its_dream(model):
    dreams, prompt = RolloutPool(model, "x"), Prompt(np.zeros((2, 64, 64, 3), np.uint8), np.array([UNKNOWN_ACTION, 1]))
    dream = dreams.start(prompt, 0, RolloutSettings(1))
    dreams.step([(dream, 1)])
    kept = Recording(dream)
    assert kept.add(dreams.step([(dream, 2)])[0]) and kept.ticks[0].place == 1
    dreams.end(dream)
    assert Replay.of(kept.dream, 1, 2, "name").actions.tolist() == [1, 2]


# Following a run


def test_newer_weights_are_taken_over_and_players_stay(tmp_path, pong_set, play_config, monkeypatch):
    monkeypatch.setattr(Follower, "POLL_SECS", 0.1)
    checkpoints = tmp_path / "run" / "checkpoints"
    random_checkpoint(checkpoints / "step_1", pong_set, seed=1)
    random_checkpoint(checkpoints / "step_2", pong_set, seed=2)
    (checkpoints / "latest").symlink_to("step_1")
    config = replace(play_config, checkpoint=str(tmp_path / "run"), follow=True)
    with serving(config) as address, Client(address) as client:
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
