"""The engine: batches, failures, threads, and weights that follow a run."""

import threading
import time
from dataclasses import replace

from playing import Client, random_checkpoint, record, serving

from dreamrun.play import launch
from dreamrun.play.rollout_pool import RolloutPool


def test_players_act_independently_and_share_batches(play):
    one, two = play(), play()
    for client, key in ((one, "UP"), (two, "DOWN")):
        client.start(seed=1)
        client.send("keys", held=[key], number=1)
        client.send("pause", on=False)
    frames = [[client.wait_for("frame") for _ in range(12)] for client in (one, two)]
    assert {frame.header["action"] for frame in frames[0]} == {1}
    assert {frame.header["action"] for frame in frames[1]} == {2}
    assert max(frame.header["together"] for frame in frames[0]) == 2


def test_a_model_failure_is_reported_and_the_server_continues(play, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("out of memory")

    client, other = play(), play()
    client.start()
    with monkeypatch.context() as broken:
        broken.setattr(RolloutPool, "start", fail)
        client.send("start", record=0)
        assert "The server failed" in client.wait_for("error")["text"]
    client.start()
    with monkeypatch.context() as broken:
        broken.setattr(RolloutPool, "step", fail)
        client.send("step")
        assert "The model failed" in client.wait_for("paused")["reason"]
    client.start()
    other.start()
    assert client.step().header["frame"] == other.step().header["frame"] == 1
    assert "out of memory" in capsys.readouterr().err


def test_torch_runs_on_one_thread_only(play_config, monkeypatch):
    """Two threads that use torch have more OpenMP threads than cores, and a frame takes 1.5 times as long."""
    names, load, step = [], launch.load_checkpoint, RolloutPool.step

    def note_thread():
        names.append(threading.current_thread().name)

    monkeypatch.setattr(launch, "load_checkpoint", lambda *arguments: note_thread() or load(*arguments))
    monkeypatch.setattr(RolloutPool, "step", lambda *arguments: note_thread() or step(*arguments))
    with serving(play_config) as address, Client(address) as client:
        client.join().start()
        client.step()
    assert len(names) == 2 and len(set(names)) == 1 and names[0] != threading.main_thread().name


def test_newer_weights_are_loaded_while_players_stay(tmp_path, pong_set, play_config):
    checkpoints = tmp_path / "run" / "checkpoints"
    random_checkpoint(checkpoints / "step_1", pong_set, seed=1)
    random_checkpoint(checkpoints / "step_2", pong_set, seed=2)
    (checkpoints / "latest").symlink_to("step_1")
    config = replace(play_config, checkpoint=str(tmp_path / "run"), follow=True)
    with serving(config, follow_secs=0.1) as address, Client(address) as client:
        client.join()
        client.start(seed=1)
        before = client.step(("UP",)).header["frame"]
        (checkpoints / "step_3").mkdir()  # a damaged checkpoint is skipped
        for name in ("step_3", "step_2"):
            (checkpoints / "link").symlink_to(name)
            (checkpoints / "link").rename(checkpoints / "latest")
            time.sleep(0.5)
        assert client.wait_for("weights")["checkpoint"].endswith("step_2")
        assert client.step(("UP",)).header["frame"] == before + 1
        recorded, _ = record(client, 2)
        assert recorded["files"] == ["dream.mp4"] and "newer weights" in recorded["note"]
        client.start(seed=1)
        assert record(client, 2)[0]["files"] == ["dream.json", "dream.mp4"]
