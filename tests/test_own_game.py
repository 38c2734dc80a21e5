"""All the way: recordings of a game that nobody knew -> trained on, dreamt, steered; and Atari the same way."""

import json
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
import torch
from recordings import DESCRIBED, play, write_csv, write_video
from tiny import SMALLEST, command

from data import collect as collecting
from data.actions import ActionSpace
from model import PRESETS, Sampler, WorldModel
from training import evaluate


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
    monkeypatch.setattr(evaluate, "ROLLOUT_FRAMES", 8)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

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
    space = ActionSpace.from_dict(model.config.to_dict())
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
    monkeypatch.setattr(collecting, "GAMES_AT_ONCE", 2)  # collected in this process, which knows of it
    monkeypatch.setattr(collecting, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    options = ("--records", 4, "--val-records", 2, "--test-records", 0, "--workers", 1, "--size", "64x96")
    run("scripts.collect", "--env", "ale:pong", "--out", "set", *options)
    run("train_world_model", "--data", "set", *FEW)
    few = ("--num-samples", 2, "--num-frames", 9)
    run("scripts.infer", *LATEST, "--data", "set", *few, "--actions", "right,fire+right,stay")
    assert num_frames("dream.mp4") == 9
    model = WorldModel.from_pretrained("run/checkpoints/latest")
    assert model.config.action_names[0] == "stay" and model.config.frame_shape == (3, 96, 64)


def test_frames_that_patches_do_not_fit(run, recordings_folder, monkeypatch, capsys):
    run("scripts.import_video", "--videos", recordings_folder, "--out", "set", "--size", "60x64", "--actions", "none")
    code, _, err = command(monkeypatch, capsys, "train_world_model", "--data", "set", *FEW)
    assert code == 2 and "frame_width is 60: it must be a multiple of patch_size, 16" in err
    assert np.all([len(line) < 400 for line in err.splitlines()])
