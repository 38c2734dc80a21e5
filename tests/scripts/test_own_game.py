"""The whole path with a user's own game: import, train, generate, play, evaluate. Also with Atari."""

import json

import numpy as np
import pytest
import torch
from playing import Client, recorded_file, serving
from recordings import DESCRIBED, play, read_video, write_csv, write_video
from tiny import LITTLE, SMALLEST, command, in_this_process, random_model, succeeded

from dreamrun.data import collecting
from dreamrun.games.factory import describe_environment
from dreamrun.model import PRESETS, Sampler, WorldModel
from dreamrun.model.options import SamplerSettings
from dreamrun.play.replay import Replay
from dreamrun.training.setup import fit_config_to_data


@pytest.fixture(scope="module")
def recordings_folder(tmp_path_factory):
    """Two videos of a game with four buttons and two axes, with their recorded actions."""
    folder = tmp_path_factory.mktemp("recordings") / "mygame"
    folder.mkdir()
    (folder / "actions.toml").write_text(DESCRIBED)
    for seed, name in enumerate(("one.mp4", "two.webm")):
        frames, speed = play(150, 192, 128, seed)
        write_video(folder / name, frames, 30, "libx264" if name.endswith("mp4") else "libvpx-vp9", sound=seed == 0)
        write_csv((folder / name).with_suffix(".csv"), speed)
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run("scripts.infer", *options): run a command in an empty folder; returns standard output."""
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(name, *options):
        out = succeeded(command(monkeypatch, capsys, name, *options))
        return out

    return call


FEW = ("--preset", "smallest", "--batch-size", 4, "--max-steps", 3, "--val-batches", 1, "--warmup-steps", 1)
FEW += ("--wandb", "off", "--out", "run", "--rollout-frames", 8)
LATEST = ("--checkpoint", "run/checkpoints/latest", "--num-steps", 2)


@pytest.mark.parametrize(
    ("size", "patch_size"),
    [("96x64", 16), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in (("64x96", 8), ("128x128", 32)))],
)
def test_a_model_trained_on_videos_follows_actions(run, recordings_folder, tmp_path, size, patch_size):
    width, height = map(int, size.split("x"))
    out = run("scripts.import_video", "--videos", recordings_folder, "--out", "set", "--size", size, "--fps", 15)
    assert "2 recordings, 0 skipped" in out and "actions and frames" in out
    out = run("train_world_model", "--data", "set", *FEW, "--patch-size", patch_size)
    assert "without" not in out and "val loss" in out
    out = run("scripts.infer", *LATEST, "--data", "set", "--num-samples", 2, "--num-frames", 9,
              "--actions", "left+jump,dx=-0.5,stay", "--metrics", "m.json", "--grid", "g.png")  # fmt: skip
    assert len(read_video("dream.mp4")) == 9
    assert len(json.loads((tmp_path / "m.json").read_text())["other_actions"]["psnr"]) == 5
    for choice in ("random", "gt"):
        run("scripts.infer", *LATEST, "--data", "set", "--num-samples", 2, "--num-frames", 9, "--actions", choice)
    run("scripts.infer", *LATEST, "--clip", recordings_folder / "one.mp4", "--num-frames", 7, "--actions", "right")

    # Playing needs only the checkpoint.
    model = WorldModel.from_pretrained("run/checkpoints/latest")
    assert model.config.frame_shape == (3, height, width) and model.config.num_actions == 7
    space = model.game.actions
    assert space.names == ("left", "right", "jump", "fire", "dx", "dy") and space.kinds[4:] == ("axis", "axis")
    with torch.no_grad():  # after three steps the action weights are still close to zero
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    generated = []
    for held in (set(), {"LEFT", "SPACE"}, {"K"}):
        sampler = Sampler(model, SamplerSettings(num_steps=2))
        sampler.reset(torch.zeros(1, 2, 3, height, width))
        generated.append(sampler.step(torch.from_numpy(space.vectors(space.action_for_keys(held)))[None]))
    assert generated[0].shape == (1, 3, height, width)
    assert all((a - b).abs().max() > 1e-3 for a, b in (generated[:2], generated[::2]))


def test_videos_without_actions_can_be_trained_on(run, recordings_folder):
    run("scripts.import_video", "--videos", recordings_folder, "--out", "set", "--actions", "none", "--fps", 15)
    out = run("train_world_model", "--data", "set", *FEW)
    assert "this data has no actions" in out
    run("scripts.infer", *LATEST, "--num-prompt-frames", 0, "--num-frames", 5)
    assert len(read_video("dream.mp4")) == 5
    assert "no actions" in run("scripts.visualize_dataset", "--data", "set", "--check", "--output", "look.mp4")


def test_atari_can_be_trained_on(run, monkeypatch):
    pytest.importorskip("ale_py")
    monkeypatch.setattr(collecting, "NUM_ENVS", 2)  # applies only in this process, so collect in it
    monkeypatch.setattr(collecting, "worker_pool", in_this_process)
    options = ("--records", 4, "--val-records", 2, "--test-records", 0, "--workers", 1, "--size", "64x96")
    run("scripts.collect", "--env", "ale:pong", "--out", "set", *options)
    run("train_world_model", "--data", "set", *FEW)
    few = ("--num-samples", 2, "--num-frames", 9)
    run("scripts.infer", *LATEST, "--data", "set", *few, "--actions", "right,fire+right,stay")
    assert len(read_video("dream.mp4")) == 9
    model = WorldModel.from_pretrained("run/checkpoints/latest")
    assert model.game.actions.names[0] == "noop" and model.config.frame_shape == (3, 96, 64)


def reject_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_a_game_with_buttons_and_axes_is_played_and_replayed(controls_config, run, tmp_path, monkeypatch):
    with serving(controls_config) as address, Client(address) as client:
        hello = client.join().hello
        assert hello["keys"] == {
            "A": "left", "LEFT": "left", "D": "right", "RIGHT": "right", "SPACE": "jump",
            "J": "dx-", "L": "dx+", "I": "dy-", "K": "dy+",
        }  # fmt: skip
        started = client.start(record=0, moment=2, seed=4)
        assert "has no level seed" in started["why_no_real_game"] and client.first_frame.header["action"] is None
        client.send("record", on=True)
        held = [("D", "SPACE"), ("LEFT", "L", "I"), (), ("J", "K", "L")]
        frames = [client.step(keys) for keys in held]
        assert [frame.header["action"] for frame in frames] == [
            [0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, -1], [0] * 6, [0, 0, 0, 0, 0, 1]
        ]  # fmt: skip
        client.send("record", on=False)
        recorded = client.wait_for("recorded")
        for name in ("dream.json", "dream.mp4"):
            (tmp_path / name).write_bytes(recorded_file(address, recorded, name))
        client.start(record=0, moment=2, seed=4)
        assert np.abs(client.step().pictures[0].astype(int) - frames[0].pictures[0]).max() > 20
    assert len(read_video("dream.mp4")) == 4
    fields = json.loads((tmp_path / "dream.json").read_text(), parse_constant=reject_constant)
    assert fields["prompt"]["actions"][0] == [None] * 6
    replayed, generate_frames = [], Replay.generate_frames
    monkeypatch.setattr(
        Replay, "generate_frames", lambda *arguments: replayed.append(generate_frames(*arguments)) or replayed[0]
    )
    run("scripts.infer", "--checkpoint", controls_config.checkpoint, "--replay", "dream.json", "--output", "again.mp4")
    assert len(read_video("again.mp4")) == 4
    assert np.abs(replayed[0].astype(int) - np.stack([frame.pictures[0] for frame in frames])).max() <= 1
    for change, words in (
        ({"actions": [[0.0, 1.0]]}, r"shape \(1, 2\): expected \(1, 6\)"),
        ({"actions": [[None] * 6] * 4}, "some of its actions are unknown"),
        ({"actions": [[1e99] * 6] * 4}, "not finite"),
        ({"actions": [0, 1, 2, 0]}, r"expected \(4, 6\)"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=words):
            Replay.read(tmp_path / "bad.json", WorldModel.from_pretrained(controls_config.checkpoint))


def evaluate(run, *options):
    run("scripts.evaluate", *LITTLE, "--output", "report", *options)
    with open("report/report.json") as file:
        return json.load(file, parse_constant=reject_constant)


def test_a_custom_game_is_evaluated_on_held_out_play(controls_config, run):
    report = evaluate(run, "--data", controls_config.data, "--checkpoint", controls_config.checkpoint)
    assert "unknown environment 'mygame'" in report["counterfactuals"]["not_measured"]
    for name in ("fidelity", "single_step", "inverse_dynamics", "drift", "sweep"):
        assert "not_measured" not in report[name], report[name]
    assert set(report["inverse_dynamics"]["groups"]) == {"noop", "left", "right", "jump", "left+jump", "right+jump"}
    curves = report["fidelity"]
    assert curves["other_actions"]["psnr"] != curves["dream"]["psnr"]


def test_a_game_without_actions_is_watched_and_evaluated(watched_config, run):
    with serving(watched_config) as address, Client(address) as client:
        assert client.join().hello["keys"] == {}
        client.start()
        client.send("pause", on=False)
        one, other = client.wait_for("frame"), client.wait_for("frame")
        assert one.header["action"] == 0 and (one.pictures != other.pictures).any()
    report = evaluate(run, "--data", watched_config.data, "--checkpoint", watched_config.checkpoint)
    for name in ("counterfactuals", "inverse_dynamics"):
        assert report[name] == {"not_measured": "the data set has no actions"}
    assert "other_actions" not in report["fidelity"] and report["single_step"]["action_ratio"] is None
    assert "not_measured" not in report["drift"] and "psnr_1" in report["sweep"][0]
    assert {row["guidance"] for row in report["sweep"]} == {1.0}


def test_atari_is_evaluated_against_real_futures(run, monkeypatch, tmp_path):
    pytest.importorskip("ale_py")
    monkeypatch.setattr(collecting, "NUM_ENVS", 2)
    monkeypatch.setattr(collecting, "worker_pool", in_this_process)
    game = describe_environment("ale:pong", {"size": "48x32", "frame_skip": 3})
    random_model(fit_config_to_data(SMALLEST, game), game=game).save_pretrained(tmp_path / "random")
    report = evaluate(run, "--checkpoint", "random")  # collects play for the evaluation
    assert report["data"]["environment_options"] == {"frame_skip": 3, "size": "48x32"}
    futures = report["counterfactuals"]
    assert futures["actions"] == ["noop", "fire", "right", "left", "right+fire", "left+fire"]
    assert [row["frame"] for row in futures["by_frame"]] == [1, 2, 4]
    assert futures["by_frame"][-1]["chance"]["value"] < 1 and "not_measured" not in report["inverse_dynamics"]


def test_frame_sizes_that_patches_do_not_divide_are_rejected(run, recordings_folder, monkeypatch, capsys):
    run("scripts.import_video", "--videos", recordings_folder, "--out", "set", "--size", "60x64", "--actions", "none")
    code, _, err = command(monkeypatch, capsys, "train_world_model", "--data", "set", *FEW)
    assert code == 2 and "frame_width is 60: it must be a multiple of patch_size, 16" in err
    assert np.all([len(line) < 400 for line in err.splitlines()])
