"""All the way: recordings of a game that nobody knew -> trained on, dreamt, steered, played, judged; and Atari too."""

import json
import urllib.request

import av
import numpy as np
import pytest
import torch
from playing import Client, own_game, serving
from recordings import DESCRIBED, play, write_csv, write_video
from tiny import CONTROLS, LITTLE, SMALLEST, command, in_this_process, random_model

from data.actions import UNCONDITIONAL, ActionSpace
from data.games import collect as collecting
from data.games.factory import describe_environment
from model import PRESETS, Sampler, WorldModel
from play.launch import PlayConfig
from play.replay import Replay
from training import validation
from training.setup import fit_config_to_data, game_info


@pytest.fixture(scope="module")
def recordings_folder(tmp_path_factory):
    """Two videos of a game with four buttons and two axes, and what was pressed."""
    folder = tmp_path_factory.mktemp("recordings") / "mygame"
    folder.mkdir()
    (folder / "actions.toml").write_text(DESCRIBED)
    for seed, name in enumerate(("one.mp4", "two.webm")):
        frames, speed = play(260, 192, 128, seed)
        write_video(folder / name, frames, 30, "libx264" if name.endswith("mp4") else "libvpx-vp9", sound=seed == 0)
        write_csv((folder / name).with_suffix(".csv"), speed)
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run("scripts.infer", *options), in an empty folder; standard output."""
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)
    monkeypatch.setattr(validation, "ROLLOUT_FRAMES", 8)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    monkeypatch.setattr("evaluation.evaluator.QUICK", LITTLE)
    monkeypatch.setattr("evaluation.evaluator.COLLECTED", {True: (4, 3)})

    def call(name, *options):
        code, out, err = command(monkeypatch, capsys, name, *options)
        assert code == 0, err
        return out

    return call


FEW = ("--preset", "smallest", "--batch-size", 4, "--max-steps", 3, "--val-batches", 1, "--warmup-steps", 1)
FEW += ("--wandb", "off", "--out", "run")
LATEST = ("--checkpoint", "run/checkpoints/latest", "--num-steps", 2)


def num_frames(path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


@pytest.mark.parametrize(("size", "patch_size"), [("96x64", 16), ("64x96", 8), ("128x128", 32)])
def test_from_videos_to_a_dream_that_is_steered(run, recordings_folder, tmp_path, size, patch_size):
    width, height = map(int, size.split("x"))
    out = run("scripts.import_video", "--videos", recordings_folder, "--out", "set", "--size", size, "--fps", 15)
    assert "2 recordings, 0 skipped" in out and "actions and frames" in out
    out = run("train_world_model", "--data", "set", *FEW, "--patch-size", patch_size)
    assert "without" not in out and "val loss" in out
    out = run("scripts.infer", *LATEST, "--data", "set", "--num-samples", 2, "--num-frames", 9,
              "--actions", "left+jump,dx=-0.5,stay", "--metrics", "m.json", "--grid", "g.png")  # fmt: skip
    assert num_frames("dream.mp4") == 9
    assert len(json.loads((tmp_path / "m.json").read_text())["other_actions"]["psnr"]) == 5
    for choice in ("random", "gt"):
        run("scripts.infer", *LATEST, "--data", "set", "--num-samples", 2, "--num-frames", 9, "--actions", choice)
    run("scripts.infer", *LATEST, "--clip", recordings_folder / "one.mp4", "--num-frames", 7, "--actions", "right")

    # As one plays: all that is needed is in the checkpoint.
    model = WorldModel.from_pretrained("run/checkpoints/latest")
    assert model.config.frame_shape == (3, height, width) and model.config.num_actions == 7
    space = ActionSpace.from_dict(model.game.to_dict())
    assert space.names == ("left", "right", "jump", "fire", "dx", "dy") and space.kinds[4:] == ("axis", "axis")
    with torch.no_grad():  # three steps leave the action's weights at next to nothing
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    dreamt = []
    for held in (set(), {"LEFT", "SPACE"}, {"K"}):
        sampler = Sampler(model, num_steps=2)
        sampler.reset(torch.zeros(1, 2, 3, height, width))
        dreamt.append(sampler.step(torch.from_numpy(space.vectors(space.action_for_keys(held)))[None]))
    assert dreamt[0].shape == (1, 3, height, width)
    assert all((a - b).abs().max() > 1e-3 for a, b in ((dreamt[0], dreamt[1]), (dreamt[0], dreamt[2])))


def test_videos_without_actions_train_and_say_so(run, recordings_folder):
    run("scripts.import_video", "--videos", recordings_folder, "--out", "set", "--actions", "none", "--fps", 15)
    out = run("train_world_model", "--data", "set", *FEW)
    assert "this data has no actions" in out
    run("scripts.infer", *LATEST, "--num-prompt-frames", 0, "--num-frames", 5)
    assert num_frames("dream.mp4") == 5
    assert "no actions" in run("scripts.visualize_dataset", "--data", "set", "--check", "--output", "look.mp4")


def test_atari_is_trained_on_and_dreamt(run, monkeypatch):
    pytest.importorskip("ale_py")
    monkeypatch.setattr(collecting, "NUM_ENVS", 2)  # collected in this process, which knows of it
    monkeypatch.setattr(collecting, "worker_pool", in_this_process)
    options = ("--records", 4, "--val-records", 2, "--test-records", 0, "--workers", 1, "--size", "64x96")
    run("scripts.collect", "--env", "ale:pong", "--out", "set", *options)
    run("train_world_model", "--data", "set", *FEW)
    few = ("--num-samples", 2, "--num-frames", 9)
    run("scripts.infer", *LATEST, "--data", "set", *few, "--actions", "right,fire+right,stay")
    assert num_frames("dream.mp4") == 9
    model = WorldModel.from_pretrained("run/checkpoints/latest")
    assert model.game.action_names[0] == "noop" and model.config.frame_shape == (3, 96, 64)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The data set and the network of the game with four buttons and two axes."""
    return own_game(tmp_path_factory.mktemp("own"), CONTROLS)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Likewise, without actions."""
    return own_game(tmp_path_factory.mktemp("watched"), UNCONDITIONAL)


def playing(own):
    data, checkpoint = own
    return serving(PlayConfig(checkpoint=str(checkpoint), data=data, port=0, fps=30, num_steps=1))


def no_number(name):
    raise AssertionError(f"{name} is not JSON")


def test_it_is_played_with_keys_held_together_and_replayed(own, run, tmp_path, monkeypatch):
    with playing(own) as address, Client(address) as client:
        hello = client.enter().hello
        assert hello["keys"] == {
            "A": "left", "LEFT": "left", "D": "right", "RIGHT": "right", "SPACE": "jump",
            "J": "dx-", "L": "dx+", "I": "dy-", "K": "dy+",
        }  # fmt: skip
        started = client.start(record=0, moment=2, seed=4)
        assert "does not know its level" in started["why_no_real_game"] and client.first.header["action"] is None
        client.send("record", on=True)
        held = [("D", "SPACE"), ("LEFT", "L", "I"), (), ("J", "K", "L")]
        frames = [client.step(keys) for keys in held]
        assert [frame.header["action"] for frame in frames] == [
            [0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, -1], [0] * 6, [0, 0, 0, 0, 0, 1]
        ]  # fmt: skip
        client.send("record", on=False)
        place = client.until("recorded")["place"]
        for name in ("dream.json", "dream.mp4"):
            with urllib.request.urlopen(f"{address}/recordings/{place}/{name}") as answer:
                (tmp_path / name).write_bytes(answer.read())
        client.start(record=0, moment=2, seed=4)
        assert np.abs(client.step().pictures[0].astype(int) - frames[0].pictures[0]).max() > 20
    assert num_frames("dream.mp4") == 4
    fields = json.loads((tmp_path / "dream.json").read_text(), parse_constant=no_number)
    assert fields["prompt"]["actions"][0] == [None] * 6
    dreamt, dream = [], Replay.dream
    monkeypatch.setattr(Replay, "dream", lambda *arguments: dreamt.append(dream(*arguments)) or dreamt[0])
    run("scripts.infer", "--checkpoint", own[1], "--replay", "dream.json", "--output", "again.mp4")
    assert num_frames("again.mp4") == 4
    assert np.abs(dreamt[0].astype(int) - np.stack([frame.pictures[0] for frame in frames])).max() <= 1
    for change, words in (
        ({"actions": [[0.0, 1.0]]}, "expected a row of 6 numbers"),
        ({"actions": [[None] * 6] * 4}, "not all of its actions are known"),
        ({"actions": [[1e99] * 6] * 4}, "not finite"),
        ({"actions": [0, 1, 2, 0]}, "expected a row of 6 numbers"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=words):
            Replay.read(tmp_path / "bad.json", WorldModel.from_pretrained(own[1]))


def judged(run, *options):
    run("scripts.evaluate", "--quick", "--output", "report", *options)
    with open("report/report.json") as file:
        return json.load(file, parse_constant=no_number)


def test_it_is_judged_by_held_out_play(own, run):
    report = judged(run, "--data", own[0], "--checkpoint", own[1])
    assert "unknown environment 'mygame'" in report["counterfactuals"]["not_measured"]
    for name in ("fidelity", "single_step", "inverse_dynamics", "drift", "sweep"):
        assert "not_measured" not in report[name], report[name]
    assert set(report["inverse_dynamics"]["groups"]) == {"noop", "left", "right", "jump", "left+jump", "right+jump"}
    curves = report["fidelity"]
    assert curves["other_actions"]["psnr"] != curves["dream"]["psnr"]


def test_video_without_actions_is_watched_and_judged(watched, run):
    with playing(watched) as address, Client(address) as client:
        assert client.enter().hello["keys"] == {}
        client.start()
        client.send("pause", on=False)
        one, other = client.until("frame"), client.until("frame")
        assert one.header["action"] == 0 and (one.pictures != other.pictures).any()
    report = judged(run, "--data", watched[0], "--checkpoint", watched[1])
    for name in ("counterfactuals", "inverse_dynamics"):
        assert report[name] == {"not_measured": "there are no actions"}
    assert "other_actions" not in report["fidelity"] and report["single_step"]["action_ratio"] is None
    assert "not_measured" not in report["drift"] and "psnr_1" in report["sweep"][0]
    assert {row["guidance"] for row in report["sweep"]} == {1.0}


def test_atari_is_judged_by_what_really_follows(run, monkeypatch, tmp_path):
    pytest.importorskip("ale_py")
    monkeypatch.setattr(collecting, "NUM_ENVS", 2)
    monkeypatch.setattr(collecting, "worker_pool", in_this_process)
    game = describe_environment("ale:pong", size="48x32", frame_skip=3)
    random_model(fit_config_to_data(SMALLEST, game), game=game_info(game)).save_pretrained(tmp_path / "random")
    report = judged(run, "--checkpoint", "random")  # play is collected
    assert report["data"]["environment_options"] == {"frame_skip": 3, "size": "48x32"}
    futures = report["counterfactuals"]
    assert futures["actions"] == ["noop", "fire", "right", "left", "right+fire", "left+fire"]
    assert [row["frame"] for row in futures["by_frame"]] == [1, 2, 4]
    assert futures["by_frame"][-1]["chance"]["value"] < 1 and "not_measured" not in report["inverse_dynamics"]


def test_frames_that_patches_do_not_fit(run, recordings_folder, monkeypatch, capsys):
    run("scripts.import_video", "--videos", recordings_folder, "--out", "set", "--size", "60x64", "--actions", "none")
    code, _, err = command(monkeypatch, capsys, "train_world_model", "--data", "set", *FEW)
    assert code == 2 and "frame_width is 60: it must be a multiple of patch_size, 16" in err
    assert np.all([len(line) < 400 for line in err.splitlines()])
