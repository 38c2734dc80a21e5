"""Recordings: videos, and replay files that generate the same frames again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from playing import Client, Frame, record, recorded_file, recorded_video, serving
from tiny import random_model, refused, succeeded

from dreamrun.games.space import UNKNOWN_ACTION
from dreamrun.model import WorldModel
from dreamrun.model.checkpoint import hash_weights
from dreamrun.model.inference import prepare_for_inference
from dreamrun.model.options import ResolvedSettings
from dreamrun.play.actions import playable_actions
from dreamrun.play.playback import MAX_RECORDING_BYTES, Recording, max_frames, max_recording_bytes
from dreamrun.play.replay import Replay
from dreamrun.play.rollout_pool import Prompt, RolloutPool, StepResult


@pytest.fixture
def model(play_config):
    return WorldModel.from_pretrained(play_config.checkpoint)


def prepare(model: WorldModel) -> WorldModel:
    """The model as the server uses it."""
    return prepare_for_inference(model, torch.device("cpu"))


@pytest.fixture
def read_replay(address, model, tmp_path):
    """read_replay(recorded): the replay of a "recorded" message."""

    def read(recorded: dict) -> Replay:
        (tmp_path / "dream.json").write_bytes(recorded_file(address, recorded, "dream.json"))
        return Replay.read(tmp_path / "dream.json", model)

    return read


def test_a_recording_can_be_watched_and_replayed(play, address, model, read_replay):
    client = play()
    client.start(seed=5, num_steps=2, guidance=1.5)
    for key in ("UP", "UP", "DOWN"):
        client.step((key,))
    recorded, frames = record(client, 8)
    assert recorded["frames"] == 8 and recorded["files"] == ["dream.json", "dream.mp4"]
    assert len(recorded_video(address, recorded)) == 8
    replay = read_replay(recorded)
    assert replay.settings == ResolvedSettings(2, 1.5, seed=5)
    assert replay.weights_hash == hash_weights(model)
    assert replay.actions.tolist() == [1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2] and replay.first_recorded == 3
    seen = np.stack([frame.pictures[0] for frame in frames])
    assert np.abs(replay.generate_frames(prepare(model)).astype(int) - seen).max() <= 1
    assert seen.std() > 5 and np.abs(np.diff(seen.astype(int), axis=0)).max() > 5


def test_a_recording_made_during_play_can_be_replayed(play, model, read_replay):
    client, seen = play(), {}
    client.start(seed=2)
    client.send("pause", on=False)

    def note_frame(message=None):
        frame = message or client.wait_for("frame")
        if isinstance(frame, Frame):
            seen[frame.header["frame"]] = frame.pictures[0]

    for number in range(12):
        client.send("keys", held=[("UP", "DOWN")[number % 2]], number=number)
        note_frame()
        if number == 4:
            client.send("record", on=True)
            client.wait_for("recording", note_frame)
    client.send("record", on=False)
    recorded = client.wait_for("recorded", note_frame)
    replay = read_replay(recorded)
    again = replay.generate_frames(prepare(model))
    assert len(again) == recorded["frames"] >= 5
    both = [number for number in range(len(again)) if replay.first_recorded + 1 + number in seen]
    assert len(both) >= 5
    for number in both:
        assert np.abs(again[number].astype(int) - seen[replay.first_recorded + 1 + number]).max() <= 1


def test_a_recording_from_a_shared_batch_is_replayed_within_a_grey_level(play, model, read_replay):
    other, client = play(), play()
    other.start(seed=1)
    other.send("pause", on=False)
    client.start(seed=2)
    recorded, frames = record(client, 10)
    assert max(frame.header["together"] for frame in frames) == 2
    again = read_replay(recorded).generate_frames(prepare(model))
    assert np.abs(again.astype(int) - np.stack([frame.pictures[0] for frame in frames])).max() <= 1


def test_infer_replays_a_recording(play, read_replay, play_config, model, tmp_path, run_script):
    client = play()
    client.start(seed=5)
    read_replay(record(client, 6)[0])
    options = ("--replay", tmp_path / "dream.json", "--output", tmp_path / "again.mp4", "--checkpoint")
    out = succeeded(run_script("infer", *options, play_config.checkpoint))
    assert "again.mp4: 6 frames" in out
    random_model(model.config, seed=9).save_pretrained(tmp_path / "other")
    result = run_script("infer", *options, tmp_path / "other")
    refused(result, "another checkpoint", Path(play_config.checkpoint).name, str(tmp_path / "dream.json"))


def test_a_recording_stops_at_its_maximum_length(play_config):
    with serving(play_config, recording_frames=3) as address, Client(address) as client:
        client.join().start()
        client.send("record", on=True)
        for _ in range(3):
            client.step()
        assert client.wait_for("recorded")["frames"] == 3


def test_the_real_game_is_recorded_above_the_dream(play, address):
    client = play()
    client.start(real=True)
    assert len(client.first_frame.pictures) == 2
    assert recorded_video(address, record(client, 3)[0]).shape[1] > 2 * 64 * 4


def test_a_recording_outlives_its_rollout(model):
    pool, prompt = RolloutPool(model, "x"), Prompt(np.zeros((2, 64, 64, 3), np.uint8), np.array([UNKNOWN_ACTION, 1]))
    rollout = pool.start(prompt, ResolvedSettings(1, 1.0))
    pool.step([(rollout, 1)])
    recording = Recording(rollout, 9, print)
    recording.add(pool.step([(rollout, 2)])[0])
    assert recording.steps[0].frame_index == 1
    pool.end(rollout)
    assert Replay.from_rollout(recording.rollout, 1, 2, "name").actions.tolist() == [1, 2]


@pytest.mark.parametrize("with_real_game", [False, True])
def test_the_video_is_made_piece_by_piece(model, with_real_game):
    """All frames of a long recording at once would take two gigabytes."""
    rng, space = np.random.default_rng(0), playable_actions(model)
    recording = Recording(None, 9, print)
    for number in range(7):
        frame, real = rng.integers(0, 255, (2, 64, 64, 3), np.uint8)
        recording.add(StepResult(number, number % 3, frame, real if with_real_game else None))
    whole = list(recording.video(space))
    assert len(whole) == 7 and np.array_equal(list(recording.video(space, at_once=3)), whole)
    assert whole[0].shape[0] > (1 + with_real_game) * 64 * 4


def test_a_recording_of_large_frames_stops_earlier():
    assert max_frames((64, 64, 3), 1800) == 1800 and max_frames((1024, 1024, 3), 1800) < 1800
    for side in (64, 256, 1024):
        assert max_recording_bytes((side, side, 3), 1800) <= MAX_RECORDING_BYTES
