import json
import os
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from recordings import play, write_video
from tiny import SMALLEST, TINY, assert_one_line, command, random_inputs, random_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.steps import clip_flops
from data.actions import unnamed_actions
from data.metadata import METADATA_FILE, Metadata
from data.records import Record, encode_record
from data.shards import write_shard
from model import PRESETS, ModelConfig

PONG_SIZED = ModelConfig(patch_size=16, dim=32, num_blocks=1, num_heads=2, window_frames=6, num_actions=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network of random weights that fits Pong."""
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    random_model(PONG_SIZED).save_pretrained(folder)
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run("infer", *options): a script, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda name, *options: command(monkeypatch, capsys, f"scripts.{name}", *options)


@pytest.fixture
def infer(run, checkpoint, pong_set):
    """infer(*options): few frames, few steps."""
    few = ("--checkpoint", checkpoint, "--data", pong_set, "--num-samples", 2, "--num-frames", 8, "--num-steps", 2)
    return lambda *options: run("infer", *few, *options)


def test_infer_writes_all_that_is_asked_for(infer, tmp_path):
    code, out, err = infer("--metrics", "m.json", "--grid", "g.png", "--plot", "p.png", "--output", "deep/dream.mp4")
    assert code == 0, err
    assert "device: CPU" in out
    with av.open(str(tmp_path / "deep" / "dream.mp4")) as video:
        assert video.streams.video[0].average_rate == 15
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 8
    # Two samples of 64 pixels, four times as large, and a gap; frames above and below with their titles and keys.
    assert frames[0].shape == (2 * (64 * 4 + 18) + 24, 2 * 64 * 4 + 6, 3)
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["num_samples"] == 2 and report["num_prompt_frames"] == 4 and len(report["record_ids"]) == 2
    for name in ("dream", "repeat_prompt", "other_actions"):
        assert len(report[name]["psnr"]) == len(report[name]["ssim"]) == 4
    assert Image.open(tmp_path / "g.png").width == 8 * 64 * 2
    assert Image.open(tmp_path / "p.png").width > 300


def test_many_samples_are_measured_and_some_are_shown(infer, tmp_path):
    code, out, err = infer("--num-samples", 20, "--split", "train", "--num-steps", 1, "--metrics", "m.json")
    assert code == 0, err
    assert "the first 8 of 20 samples" in out
    assert json.loads((tmp_path / "m.json").read_text())["num_samples"] == 20
    with av.open(str(tmp_path / "dream.mp4")) as video:
        assert video.streams.video[0].width == 8 * (64 * 4 + 6) - 6


def test_infer_is_reproducible_and_seeds_matter(infer, tmp_path):
    def curve(seed):
        assert infer("--metrics", "m.json", "--seed", seed)[0] == 0
        return json.loads((tmp_path / "m.json").read_text())["dream"]["psnr"]

    assert curve(1) == curve(1) != curve(2)


def test_named_actions_are_repeated_and_shown(infer, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "scripts.infer.comparison", lambda *arguments: shown.append(arguments) or np.zeros((1, 2, 2, 3), np.uint8)
    )
    assert infer("--actions", "up,Down,stay")[0] == 0
    actions = shown[0][2]
    assert actions[:, 4:].tolist() == [[1, 2, 0, 1]] * 2
    assert infer("--actions", "random")[0] == 0
    assert set(np.unique(shown[1][2][:, 4:])) <= {0, 1, 2}


def test_dreams_under_other_actions_go_on_after_the_recording(infer, tmp_path):
    code, _, err = infer("--actions", "up", "--num-frames", 170, "--num-steps", 1, "--metrics", "m.json")
    assert code == 0, err
    with av.open(str(tmp_path / "dream.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 170
    report = json.loads((tmp_path / "m.json").read_text())
    assert 1 <= len(report["dream"]["psnr"]) == len(report["repeat_prompt"]["psnr"]) < 160


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num-samples", 0), ("0 samples",)),
        (("--num-samples", 50), ("50 samples", "only")),
        (("--num-frames", 400), ("400 frames", "the longest has 1")),
        (("--num-frames", 4), ("num_frames 4 leaves nothing to dream",)),
        (("--num-prompt-frames", -1), ("num_prompt_frames is -1",)),
        (("--clip", "mine.mp4"), ("either --data or --clip",)),
        (("--actions", "up,fly"), ("unknown action 'fly'", "noop, up, down")),
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
def test_infer_mistakes(infer, tmp_path, options, words):
    code, _, err = infer(*options)
    assert_one_line(code, err, *words)
    assert not list(tmp_path.iterdir())


def test_dreams_without_a_prompt(infer, run, checkpoint, tmp_path):
    """Along with a recording's actions, or without any data at all."""
    code, _, err = infer("--num-prompt-frames", 0, "--metrics", "m.json", "--grid", "g.png")
    assert code == 0, err
    report = json.loads((tmp_path / "m.json").read_text())
    assert len(report["dream"]["psnr"]) == 8 and "repeat_prompt" not in report
    few = ("--checkpoint", checkpoint, "--num-frames", 5, "--num-steps", 1, "--num-samples", 2)
    code, _, err = run("infer", *few, "--num-prompt-frames", 0, "--actions", "random", "--output", "alone.mp4")
    assert code == 0, err
    with av.open(str(tmp_path / "alone.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (64 * 4 + 18 + 24, 2 * 64 * 4 + 6, 3)


def test_a_clip_is_continued(run, checkpoint, tmp_path):
    """From its last frames, at the size and rate of the game."""
    pictures, _ = play(40, width=180, height=120)
    write_video(tmp_path / "mine.mp4", pictures, fps=30)
    few = ("--checkpoint", checkpoint, "--num-frames", 7, "--num-steps", 1, "--num-samples", 1, "--actions", "1")
    code, _, err = run("infer", *few, "--clip", "mine.mp4", "--output", "on.mp4")
    assert code == 0, err
    with av.open(str(tmp_path / "on.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 7
    for shown, number in zip(frames[:4], (32, 34, 36, 38), strict=True):
        small = Image.fromarray(pictures[number][:, 30:150]).resize((64, 64), Image.Resampling.BOX)
        wanted = small.resize((256, 256), Image.Resampling.NEAREST)
        assert np.abs(shown[18:274].astype(float) - np.asarray(wanted)).mean() < 12
    for options, words in (
        (("--clip", "nowhere.mp4"), ("no video at nowhere.mp4",)),
        (("--clip", "mine.mp4", "--num-prompt-frames", 30, "--num-frames", 40), ("mine.mp4 has only 20 frames",)),
        ((), ("no data set at samples/coinrun",)),
        (("--clip", "mine.mp4", "--metrics", "m.json"), ("give --data",)),
        (("--clip", "mine.mp4", "--num-prompt-frames", 0), ("--clip has nothing to give",)),
    ):
        code, _, err = run("infer", "--checkpoint", checkpoint, *options)
        assert_one_line(code, err, *words)


def test_infer_with_a_checkpoint_of_another_game(run, tmp_path, pong_set):
    random_model(TINY).save_pretrained(tmp_path / "small_frames")
    code, _, err = run("infer", "--checkpoint", "small_frames", "--data", pong_set)
    assert_one_line(code, err, "frames of 24x16", "64x64", "width x height")
    random_model(ModelConfig(dim=32, num_blocks=1, num_heads=2)).save_pretrained(tmp_path / "coinrun")
    code, _, err = run("infer", "--checkpoint", "coinrun", "--data", pong_set)
    assert_one_line(code, err, "knows 15 actions", "has 3")


def write_moving_set(folder, lag):
    """Play in which RIGHT and LEFT shift the picture two pixels, `lag` frames after the action."""
    rng = np.random.default_rng(0)
    metadata = Metadata(frame_shape=(32, 32, 3), actions=unnamed_actions(3))
    described = metadata.to_dict() | {
        "action_names": ["noop", "left", "right"],
        "action_keys": [[], ["LEFT"], ["RIGHT"]],
    }
    (folder / "train").mkdir(parents=True)
    (folder / METADATA_FILE).write_text(json.dumps(described))
    scene = np.kron(rng.integers(0, 255, (8, 64)), np.ones((4, 4))).astype(np.uint8)
    payloads = []
    for _ in range(20):
        actions = rng.integers(0, 3, 100)
        speed = np.roll(np.array([0, -2, 2])[actions], lag)
        positions = 96 + np.concatenate(([0], np.cumsum(speed)[:-1]))
        frames = np.stack([scene[:, p : p + 32] for p in np.clip(positions, 0, 224)])
        payloads.append(encode_record(Record(np.repeat(frames[..., None], 3, -1), actions)))
    write_shard(folder / "train" / "data_0000.array_record", payloads)
    return folder


@pytest.mark.parametrize(("lag", "words"), [(0, "aligned: actions[t] leads"), (1, "NOT ALIGNED"), (-1, "NOT ALIGNED")])
def test_check_finds_misaligned_actions(run, tmp_path, lag, words):
    code, out, err = run("visualize_dataset", "--data", write_moving_set(tmp_path / "set", lag), "--check")
    assert code == 0, err
    assert words in out
    assert lag == 0 or f"{lag:+d} frames" in out
    assert "20 records, 2000 frames, 0 bad" in out and "val: none" in out


def test_check_counts_what_is_bad(run, tmp_path):
    folder = write_moving_set(tmp_path / "set", 0)
    (folder / "train" / "data_0001.array_record").write_bytes(b"not a shard")
    code, out, err = run("visualize_dataset", "--data", folder, "--check")
    assert code == 0, err
    assert "1 bad" in out and "data_0001.array_record is not a complete ArrayRecord file" in out


def test_preview_of_a_set_and_of_a_shard(run, tmp_path, pong_set):
    shard = next((pong_set / "train").glob("*.array_record"))
    for source in (("--data", pong_set), ("--shard", shard)):
        code, out, err = run("visualize_dataset", *source, "--num-episodes", 2, "--output", "preview.mp4")
        assert code == 0, err
        with av.open(str(tmp_path / "preview.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == int(out.split(" frames")[0].split()[-1])
        (tmp_path / "preview.mp4").unlink()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("either --data DIR or --shard FILE",)),
        (("--data", "x"), ("nothing to do",)),
        (("--data", "x", "--check"), ("no data set at x",)),
        (("--shard", "x", "--output", "p.mp4"), ("no shard at x",)),
        (("--shard", "text.array_record", "--output", "p.mp4"), ("not a complete ArrayRecord file",)),
    ],
)
def test_visualize_mistakes(run, tmp_path, options, words):
    (tmp_path / "text.array_record").write_text("hello")
    code, _, err = run("visualize_dataset", *options)
    assert_one_line(code, err, *words)
    assert not (tmp_path / "p.mp4").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--env", "doom"), ("unknown environment 'doom'", "pong", "coinrun")),
        (("--records", -1), ("records is -1",)),
        (("--min-frames", 500), ("min_frames is 500",)),
        (("--policy", "greedy"), ("greedy", "explore", "uniform")),
    ],
)
def test_collect_mistakes(run, tmp_path, options, words):
    code, _, err = run("collect", "--env", "pong", "--out", "set", *options)
    assert_one_line(code, err, *words)
    assert not list(tmp_path.iterdir())


def test_collect_says_what_it_made_and_refuses_to_overwrite(run, tmp_path):
    options = ("--env", "pong", "--out", "set", "--records", 3, "--val-records", 0, "--test-records", 0, "--workers", 1)
    code, out, err = run("collect", *options)
    assert code == 0, err
    assert "train: 3 records" in out and "frames/s" in out and "bytes per frame" in out
    before = (tmp_path / "set" / METADATA_FILE).read_bytes()
    code, _, err = run("collect", *options, "--seed", 1)
    assert_one_line(code, err, "set is not empty", "overwrite")
    assert (tmp_path / "set" / METADATA_FILE).read_bytes() == before


def test_benchmark_rollout_ends_in_json(run, checkpoint):
    code, out, err = run(
        "benchmark", "rollout", "--checkpoint", checkpoint, "--num-steps", 2, "--frames", 4, "--compare", "reference"
    )
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    for name in ("frames_per_sec", "ms_per_frame_median", "ms_per_frame_p99", "ratio", "share_of_matmul_rate"):
        assert results[name] > 0
    assert results["num_steps"] == 2


def test_benchmark_loader_ends_in_json(run, pong_set):
    code, out, err = run("benchmark", "loader", "--data", pong_set, "--batch-size", 8, "--num-batches", 3)
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["clips"] == 24 and results["ratio"] > 0 and results["different_records_median"] > 1


def test_benchmark_train_ends_in_json(run, pong_set, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)
    few = ("--preset", "smallest", "--batch-size", 4, "--steps", 3)
    for options in (
        (),
        ("--data", pong_set, "--clip-frames", 5, "--accumulate", 2, "--activation-checkpointing", "--bf16", "False"),
    ):
        code, out, err = run("benchmark", "train", *few, *options)
        assert code == 0, err
        results = json.loads(out.splitlines()[-1])
        assert results["clip_frames"] == (5 if options else 6)
        for name in ("clips_per_sec", "ms_per_step_median", "flop_utilisation", "peak_memory_mib", "data_wait_secs"):
            assert results[name] > 0
        assert results["steps_per_sec"] == pytest.approx(results["clips_per_sec"] / 4)
        assert results["flop_utilisation"] < 1 and results["data_wait_share"] < 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_frames", [TINY.window_frames, 3])
def test_flops_are_those_that_torch_counts(num_frames):
    model, inputs = random_model(), random_inputs(batch=1, num_frames=num_frames)
    with FlopCounterMode(display=False) as forward:
        out = model(*inputs)
    assert clip_flops(TINY, num_frames) == 3 * forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        out.square().mean().backward()
    # Twice the forward pass, but for the gradient of what comes from outside.
    outside = 2 * num_frames * TINY.dim * (TINY.num_patches * 3 * TINY.patch_size**2 + 256 + TINY.num_actions)
    assert backward.get_total_flops() == 2 * forward.get_total_flops() - outside


def test_benchmark_importer_ends_in_json(run, tmp_path):
    (tmp_path / "videos").mkdir()
    for seed in range(2):
        write_video(tmp_path / "videos" / f"{seed}.mp4", play(40, seed=seed)[0])
    code, out, err = run("benchmark", "importer", "--videos", "videos", "--size", "32x16")
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["pictures"] == 80 and results["ratio"] > 0 and results["ratio_of_cpu"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("rollout", "--preset", "huge"), ("unknown preset 'huge'",)),
        (("train", "--preset", "huge"), ("unknown preset 'huge'",)),
        (("train", "--steps", 0), ("steps is 0",)),
        (("train", "--clip-frames", 99), ("clips of 99 frames do not fit a window of 16",)),
        (("train", "--device", "cuda"), ("CUDA was asked for",)),
        (("rollout", "--frames", 0), ("frames is 0",)),
        (("rollout", "--num-steps", 0), ("num_steps is 0",)),
        (("loader", "--data", "nowhere"), ("no data set at nowhere",)),
        (("loader", "--data", "nowhere", "--batch-size", 0), ("batch_size is 0",)),
        (("flight",), ("flight",)),
    ],
)
def test_benchmark_mistakes(run, options, words):
    code, _, err = run("benchmark", *options)
    assert_one_line(code, err, *words)


def test_slurm_script_starts_torchrun_on_every_node(tmp_path):
    """With a cluster of stand-ins."""
    commands = {"srun": 'printf "%s\\n" "$@"', "scontrol": "printf 'node7\\nnode8\\n'"}
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "99"}
    script = Path(__file__).parents[2] / "scripts" / "train.slurm"
    run = subprocess.run(
        ["bash", script, "--data", "a set"],
        cwd=tmp_path, env={**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.splitlines() == [
        "--kill-on-bad-exit=1", "torchrun", "--nnodes=2", "--nproc-per-node=gpu", "--rdzv-backend=c10d",
        "--rdzv-endpoint=node7:29500", "--rdzv-id=99", "--max-restarts=3", "train_world_model.py",
        "--resume", "auto", "--data", "a set",
    ]  # fmt: skip
