"""The command scripts.infer."""

import json
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image
from recordings import play, read_video, write_video
from tiny import TINY, random_model, refused, succeeded

from dreamrun.model import ModelConfig


@pytest.fixture
def infer(run_script, pong_checkpoint, pong_set):
    """infer(*options): the command with few frames and few steps."""
    defaults = ("--checkpoint", pong_checkpoint, "--data", pong_set, "--num-samples", 2)
    defaults += ("--num-frames", 8, "--num-steps", 2)
    return lambda *options: run_script("infer", *defaults, *options)


def test_infer_writes_all_requested_files(infer, tmp_path):
    out = succeeded(infer("--metrics", "m.json", "--grid", "g.png", "--plot", "p.png", "--output", "deep/dream.mp4"))
    assert "device: CPU" in out
    with av.open(str(tmp_path / "deep" / "dream.mp4")) as video:
        assert video.streams.video[0].average_rate == 15
    # Two columns of 64 pixels, four times as large, and a gap. Each has two rows with titles, and the keys below.
    frames = read_video(tmp_path / "deep" / "dream.mp4")
    assert frames.shape == (8, 2 * (64 * 4 + 18) + 24, 2 * 64 * 4 + 6, 3)
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["num_samples"] == 2 and report["num_prompt_frames"] == 4 and len(report["record_ids"]) == 2
    for name in ("dream", "repeat_prompt", "other_actions"):
        assert len(report[name]["psnr"]) == len(report[name]["ssim"]) == 4
    assert Image.open(tmp_path / "g.png").width == 8 * 64 * 2
    assert Image.open(tmp_path / "p.png").width > 300


def test_all_samples_are_measured_and_the_first_eight_are_shown(infer, tmp_path):
    out = succeeded(infer("--num-samples", 20, "--split", "train", "--num-steps", 1, "--metrics", "m.json"))
    assert "the first 8 of 20 samples" in out
    assert json.loads((tmp_path / "m.json").read_text())["num_samples"] == 20
    assert read_video(tmp_path / "dream.mp4").shape[2] == 8 * (64 * 4 + 6) - 6


def test_the_seed_determines_the_frames(infer, tmp_path):
    def psnr_curve(seed):
        assert infer("--metrics", "m.json", "--seed", seed)[0] == 0
        return json.loads((tmp_path / "m.json").read_text())["dream"]["psnr"]

    assert psnr_curve(1) == psnr_curve(1) != psnr_curve(2)


def test_named_actions_are_repeated_and_shown(infer, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "dreamrun.scripts.infer.comparison",
        lambda *arguments: shown.append(arguments) or np.zeros((1, 2, 2, 3), np.uint8),
    )
    assert infer("--actions", "up,Down,stay")[0] == 0
    actions = shown[0][2]
    assert actions[:, 4:].tolist() == [[1, 2, 0, 1]] * 2
    assert infer("--actions", "random")[0] == 0
    assert set(np.unique(shown[1][2][:, 4:])) <= {0, 1, 2}


def test_rollouts_with_other_actions_may_be_longer_than_the_record(infer, tmp_path):
    succeeded(infer("--actions", "up", "--num-frames", 170, "--num-steps", 1, "--metrics", "m.json"))
    assert len(read_video(tmp_path / "dream.mp4")) == 170
    report = json.loads((tmp_path / "m.json").read_text())
    assert 1 <= len(report["dream"]["psnr"]) == len(report["repeat_prompt"]["psnr"]) < 160


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num-samples", 0), ("num_samples is 0",)),
        (("--num-samples", 50), ("50 samples", "only")),
        (("--num-frames", 400), ("400 frames", "the longest has 1")),
        (("--num-frames", 4), ("num_frames is 4",)),
        (("--num-prompt-frames", -1), ("num_prompt_frames is -1",)),
        (("--clip", "mine.mp4"), ("--data and --clip exclude each other",)),
        (("--actions", "up,fly"), ("unknown action 'fly'", "noop, up, down")),
        (("--actions", "up+down"), ("unknown action 'up+down'", "one at a time")),
        (("--split", "holdout"), ("holdout", "test, train, val")),
        (("--data", "nowhere"), ("no data set at nowhere",)),
        (("--checkpoint", "nowhere/at/all"), ("no checkpoint at nowhere/at/all",)),
        (("--checkpoint", "."), ("is not a checkpoint", "config.json")),
        (("--num-steps", 0), ("num_steps is 0",)),
        (("--context-noise", 1.5), ("context_noise is 1.5",)),
        (("--fps", 0), ("fps is 0",)),
        (("--device", "cuda"), ("CUDA was asked for",)),
    ],
)
def test_wrong_options_give_one_line_of_error(infer, tmp_path, options, words):
    refused(infer(*options), *words)
    assert not list(tmp_path.iterdir())


def test_rollouts_without_a_prompt(infer, run_script, pong_checkpoint, tmp_path):
    """With a recording's actions, or without any data."""
    succeeded(infer("--num-prompt-frames", 0, "--metrics", "m.json", "--grid", "g.png"))
    report = json.loads((tmp_path / "m.json").read_text())
    assert len(report["dream"]["psnr"]) == 8 and "repeat_prompt" not in report
    few = ("--checkpoint", pong_checkpoint, "--num-frames", 5, "--num-steps", 1, "--num-samples", 2)
    succeeded(run_script("infer", *few, "--num-prompt-frames", 0, "--actions", "random", "--output", "alone.mp4"))
    assert read_video(tmp_path / "alone.mp4").shape == (5, 64 * 4 + 18 + 24, 2 * 64 * 4 + 6, 3)


def test_a_clip_is_continued(run_script, pong_checkpoint, tmp_path):
    """The prompt is the clip's last frames, at the game's size and frame rate."""
    pictures, _ = play(40, width=180, height=120)
    write_video(tmp_path / "mine.mp4", pictures, fps=30)
    few = ("--checkpoint", pong_checkpoint, "--num-frames", 7, "--num-steps", 1, "--num-samples", 1, "--actions", "1")
    succeeded(run_script("infer", *few, "--clip", "mine.mp4", "--output", "continued.mp4"))
    frames = read_video(tmp_path / "continued.mp4")
    assert len(frames) == 7
    for shown, index in zip(frames[:4], (32, 34, 36, 38), strict=True):
        small = Image.fromarray(pictures[index][:, 30:150]).resize((64, 64), Image.Resampling.BOX)
        expected = small.resize((256, 256), Image.Resampling.NEAREST)
        assert np.abs(shown[18:274].astype(float) - np.asarray(expected)).mean() < 12
    for options, words in (
        (("--clip", "nowhere.mp4"), ("there is no clip at nowhere.mp4",)),
        (("--clip", "mine.mp4", "--num-prompt-frames", 30, "--num-frames", 40), ("mine.mp4 has only 20 frames",)),
        ((), ("samples/coinrun has 15",)),
        (("--clip", "mine.mp4", "--metrics", "m.json"), ("give --data",)),
        (("--clip", "mine.mp4", "--num-prompt-frames", 0), ("--clip is not used",)),
    ):
        refused(run_script("infer", "--checkpoint", pong_checkpoint, *options), *words)


def test_frames_have_the_size_of_the_data(run_script, tmp_path, pong_set):
    random_model(TINY).save_pretrained(tmp_path / "small_frames")
    few = ("--data", pong_set, "--num-samples", 1, "--num-frames", 6, "--num-steps", 1)
    out = succeeded(run_script("infer", "--checkpoint", "small_frames", *few))
    assert f"frames of 64x64, as in {pong_set}; the model has learnt 24x16" in out
    random_model(replace(TINY, outcomes=True)).save_pretrained(tmp_path / "outcomes")
    assert run_script("infer", "--checkpoint", "outcomes", *few)[0] == 0  # without the head, which knows one size


def test_infer_with_a_checkpoint_of_another_game(run_script, tmp_path, pong_set):
    random_model(ModelConfig(dim=32, num_blocks=1, num_heads=2)).save_pretrained(tmp_path / "coinrun")
    refused(run_script("infer", "--checkpoint", "coinrun", "--data", pong_set), "knows 15 actions", "has 3")
