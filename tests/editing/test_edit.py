"""The command scripts.edit, with a network of random weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from recordings import play, read_video, write_video
from tiny import SMALLEST, random_model, refused, succeeded

from dreamrun.data.importing.clip_source import read_source
from dreamrun.data.metadata import read_metadata
from dreamrun.data.metrics import psnr
from dreamrun.games.space import UNCONDITIONAL
from dreamrun.scripts import edit as edit_command
from dreamrun.training.setup import fit_config_to_data


@pytest.fixture(scope="module")
def filler(tmp_path_factory, pong_set):
    """A checkpoint that fits `pong_set` and says that it can fill in."""
    metadata = read_metadata(pong_set)
    config = replace(fit_config_to_data(SMALLEST, metadata), can_fill=True)
    folder = tmp_path_factory.mktemp("checkpoints") / "filler"
    random_model(config, game=metadata).save_pretrained(folder)
    return folder


@pytest.fixture
def edit(run_script, filler, pong_set, tmp_path):
    """edit(task, *options): the command with two steps; DATA, VIDEO and PICTURE stand for clips."""
    frames, _ = play(12)
    write_video(tmp_path / "mine.mp4", frames, fps=15)
    Image.fromarray(frames[0]).save(tmp_path / "mine.png")
    paths = {"DATA": pong_set, "VIDEO": "mine.mp4", "PICTURE": "mine.png"}

    def run(task, *options):
        named = [paths[str(word).partition(":")[0]] if str(word) in paths else word for word in options]
        named = [f"{pong_set}{word[4:]}" if str(word).startswith("DATA:") else word for word in named]
        return run_script("edit", task, *named, "--checkpoint", filler, "--num-steps", 2)

    return run


def is_framed(frame: np.ndarray) -> bool:
    """Whether the border at the bottom is yellow."""
    red, _, blue = frame[-2, 100].astype(int)
    return red - blue > 100


@pytest.mark.parametrize("clip", ["DATA", "VIDEO", "PICTURE"])
def test_every_task_takes_a_record_a_video_and_a_picture(edit, tmp_path, clip):
    part = {"DATA": "DATA:0:20-25", "VIDEO": "mine.mp4:2-7", "PICTURE": "PICTURE"}[clip]
    length = 1 if clip == "PICTURE" else 5
    tasks = {
        ("extend", part, "--backward", 3, "--forward", 4): (length + 7, [False] * 3 + [True] * length + [False] * 4),
        ("join", part, part, "--frames", 3): (2 * length + 3, [True] * length + [False] * 3 + [True] * length),
        ("loop", part, "--frames", 14, "--actions", "up,noop"): (14, [True] * length + [False] * (14 - length)),
    }
    if clip != "PICTURE":
        tasks["between", part] = 5, [True, False] * 2 + [True]
        tasks["restyle", part, "--strength", 0.5, "--actions", "down"] = 5, [True] + [False] * 4
    else:
        tasks["restyle", part, "--keep", 0] = 1, [False]
    for options, (num_frames, framed) in tasks.items():
        out = succeeded(edit(*options))
        assert f"wrote edit.mp4: {num_frames} frames, {sum(framed)} of them known" in out
        frames = read_video(tmp_path / "edit.mp4")
        assert [is_framed(frame) for frame in frames] == framed
    assert np.std([frame[60:200, 40:200].mean() for frame in frames]) < 120


def test_truth_and_metrics_of_a_record(edit, tmp_path):
    out = succeeded(edit("extend", "DATA:1:20-25", "--backward", 3, "--metrics", "m.json", "--actions", "gt"))
    measured = json.loads((tmp_path / "m.json").read_text())
    assert {"PSNR, dB, generated", "SSIM, nearest known", "PSNR, dB, cross-fade"} < measured.keys()
    assert measured["95 % of ordinary steps"][0] < measured["95 % of ordinary steps"][1] and "ordinary steps" in out
    assert read_video(tmp_path / "edit.mp4")[0].shape[0] > 2 * 64 * 4  # the real game above
    assert edit("extend", "DATA:1:1-6", "--backward", 3, "--metrics", "m.json")[0] == 0  # two frames before the record
    assert "PSNR, dB, generated" not in json.loads((tmp_path / "m.json").read_text())
    assert edit("loop", "DATA:1:0-4", "--metrics", "m.json")[0] == 0
    assert "step across the seam" in json.loads((tmp_path / "m.json").read_text())


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_result_is_edited_again_without_its_decoration(edit, pong_set, suffix):
    options = ("extend", "DATA:0:20-25", "--forward", 3)
    assert edit(*options, "--output", f"first.{suffix}", "--plain", "plain.mp4")[0] == 0
    refused(
        edit("extend", f"first.{suffix}", "--forward", 2),
        f"first.{suffix}: it shows titles or keys beside the game",
        "edit --plain",
    )
    code, out, err = edit("extend", "plain.mp4", "--forward", 2)
    assert code == 0 and "10 frames, 8 of them known" in out, err
    read = [read_source(name, 64, 64, 15, UNCONDITIONAL).frames for name in (f"{pong_set}:0:20-25", "plain.mp4")]
    assert psnr(read[0], read[1][:5]) > 35


def test_images_and_gifs(edit, tmp_path):
    assert edit("image", "--num-images", 3, "--output", "a.gif")[0] == 0
    assert edit("image", "--num-images", 3, "--output", "b.gif", "--seed", 1)[0] == 0
    first, second = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("a.gif", "b.gif"))
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 3 and animation.info["loop"] == 0
    assert first.shape == second.shape and not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("extend", "DATA"), ["0 frames backward and 0 forward"]),
        (("extend", "DATA", "--forward", 10**6), ["at most 10000"]),
        (("extend", "DATA:9", "--backward", 2), ["has 3 records"]),
        (("extend", "DATA:0:5-900", "--backward", 2), ["frames", "name some of 0-"]),
        (("extend", "nothing.mp4", "--backward", 2), ["there is no clip at nothing.mp4"]),
        (("extend", "mine.mp4:3", "--backward", 2), ["is not a data set"]),
        (("extend", "VIDEO", "--forward", 2, "--actions", "gt"), ["--actions gt needs"]),
        (("extend", "VIDEO", "--forward", 2, "--actions", "jump"), ["jump"]),
        (("extend", "VIDEO", "--forward", 2, "--output", "a.txt"), ["must end in .mp4 or .gif"]),
        (("between", "PICTURE"), ["the clip has 1 frames"]),
        (("join", "DATA", "VIDEO", "--frames", 0), ["frames is 0"]),
        (("extend", "VIDEO", "--backward", -1), ["backward is -1"]),
        (("between", "VIDEO", "--factor", 1), ["factor is 1"]),
        (("loop", "VIDEO", "--frames", 5), ["a loop of 5 needs fewer"]),
        (("restyle", "VIDEO", "--strength", 0), ["strength is 0"]),
        (("image", "--num-images", 0), ["num_images is 0"]),
    ],
)
def test_mistakes_are_one_line(edit, options, words):
    refused(edit(*options), *words)


def test_clips_and_checkpoints_that_do_not_fit(run_script, edit, filler, pong_set, pong_checkpoint):
    coinrun = "/".join((*__file__.split("/")[:-3], "samples/coinrun"))
    refused(edit("join", "DATA:0:0-4", f"{coinrun}:0:0-4"), "actions")
    options = ("extend", f"{pong_set}:0", "--backward", 2, "--checkpoint", pong_checkpoint)
    refused(run_script("edit", *options), "never learnt to fill in frames", "--fill-share")


def test_help_shows_an_example_of_each_task():
    for task in ("extend", "between", "join", "loop", "restyle", "image"):
        assert f"python -m scripts.edit {task} " in edit_command.__doc__
