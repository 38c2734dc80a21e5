"""The command scripts.benchmark."""

import json

import pytest
from recordings import play, write_video
from tiny import SMALLEST, TINY, random_inputs, random_model, refused, succeeded
from torch.utils.flop_counter import FlopCounterMode

from dreamrun.benchmarks.steps import clip_flops
from dreamrun.model import PRESETS


def test_benchmark_rollout_ends_in_json(run_script, pong_checkpoint):
    options = ("--checkpoint", pong_checkpoint, "--num-steps", 2, "--frames", 4, "--compare", "reference")
    out = succeeded(run_script("benchmark", "rollout", *options))
    results = json.loads(out.splitlines()[-1])
    for name in ("frames_per_sec", "ms_per_frame_median", "ms_per_frame_p99", "ratio", "share_of_matmul_rate"):
        assert results[name] > 0
    assert results["num_steps"] == 2


def test_benchmark_loader_ends_in_json(run_script, pong_set):
    out = succeeded(run_script("benchmark", "loader", "--data", pong_set, "--batch-size", 8, "--num-batches", 3))
    results = json.loads(out.splitlines()[-1])
    assert results["clips"] == 24 and results["ratio"] > 0 and results["different_records_median"] > 1


def test_benchmark_compares_a_mixture_with_its_parts(run_script, tmp_path, write_set, make_record):
    sets = [write_set(tmp_path / f"set{n}", [make_record(40, seed=n), make_record(40, seed=n + 5)]) for n in range(2)]
    out = succeeded(run_script("benchmark", "loader", "--data", *sets, "--clip-frames", 8, "--batch-size", 5))
    results = json.loads(out.splitlines()[-1])
    assert results["clips"] == 20 and results["ratio"] > 0  # 10 clips of each


def test_benchmark_train_ends_in_json(run_script, pong_set, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)
    defaults = ("--preset", "smallest", "--batch-size", 4, "--steps", 3)
    for options in (
        (),
        ("--data", pong_set, "--clip-frames", 5, "--accumulate", 2, "--activation-checkpointing", "--bf16", "False"),
    ):
        out = succeeded(run_script("benchmark", "train", *defaults, *options))
        results = json.loads(out.splitlines()[-1])
        assert results["clip_frames"] == (5 if options else 6)
        for name in ("clips_per_sec", "ms_per_step_median", "flop_utilisation", "peak_memory_mib", "data_wait_secs"):
            assert results[name] > 0
        assert results["steps_per_sec"] == pytest.approx(results["clips_per_sec"] / 4)
        assert results["flop_utilisation"] < 1 and results["data_wait_share"] < 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_frames", [TINY.window_frames, 3])
def test_clip_flops_equal_the_count_of_torch(num_frames):
    model, inputs = random_model(), random_inputs(batch=1, num_frames=num_frames)
    with FlopCounterMode(display=False) as forward:
        out = model(*inputs)
    assert clip_flops(TINY, num_frames) == 3 * forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        out.square().mean().backward()
    # The backward pass costs twice the forward pass, minus the gradients of the inputs, which nobody needs.
    input_gradients = 2 * num_frames * TINY.dim * (TINY.num_patches * 3 * TINY.patch_size**2 + 256 + TINY.num_actions)
    assert backward.get_total_flops() == 2 * forward.get_total_flops() - input_gradients


def test_benchmark_importer_ends_in_json(run_script, tmp_path):
    (tmp_path / "videos").mkdir()
    for seed in range(2):
        write_video(tmp_path / "videos" / f"{seed}.mp4", play(40, seed=seed)[0])
    out = succeeded(run_script("benchmark", "importer", "--videos", "videos", "--size", "32x16"))
    results = json.loads(out.splitlines()[-1])
    assert results["pictures"] == 80 and results["ratio"] > 0 and results["ratio_of_cpu"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_benchmark_env_ends_in_json(run_script, pong_set, monkeypatch):
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)
    options = ("--preset", "smallest", "--data", pong_set, "--num-envs", 1, 2, "--num-steps", 1, "--steps", 2)
    out = succeeded(run_script("benchmark", "env", *options))
    results = json.loads(out.splitlines()[-1])
    assert results["num_steps"] == 1
    for num_envs in (1, 2):
        dream, real = (results[f"{name}_frames_per_sec_{num_envs}"] for name in ("dream", "real"))
        assert results[f"real_over_dream_{num_envs}"] == pytest.approx(real / dream) and dream > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("rollout", "--preset", "huge"), ("unknown preset 'huge'",)),
        (("train", "--steps", 0), ("steps is 0",)),
        (("train", "--clip-frames", 99), ("clips of 99 frames do not fit a window of 16",)),
        (("rollout", "--frames", 0), ("frames is 0",)),
        (("loader", "--data", "nowhere", "--batch-size", 0), ("batch_size is 0",)),
        (("env", "--steps", 0), ("steps is 0",)),
        (("flight",), ("flight",)),
    ],
)
def test_wrong_options_give_one_line_of_error(run_script, options, words):
    refused(run_script("benchmark", *options), *words)


@pytest.mark.slow
def test_benchmark_play_ends_in_json(play_config, pong_set, run_script):
    options = ("--checkpoint", play_config.checkpoint, "--data", pong_set, "--seconds", 2, "--players", 2)
    options += ("--num-steps", 1)
    out = succeeded(run_script("benchmark", "play", *options))
    results = json.loads(out.splitlines()[-1])
    assert results["players"] == 2 and results["fps"] == 15 and 0 <= results["dropped_share"] < 1
    for name in ("frames_per_sec_min", "delay_ms_median", "model_ms_median", "secs_to_first_frame", "server_mib"):
        assert results[name] > 0
    refused(run_script("benchmark", "play", *options, "--split", "none"), "none")
    refused(run_script("benchmark", "play", *options, "--seconds", 0.01), "give more --seconds")
