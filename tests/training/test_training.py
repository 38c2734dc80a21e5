"""Training runs from the command line: what they write, how they stop, how they fail."""

import signal

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import assert_one_line, refused, succeeded

from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metrics_log import read_metrics
from dreamrun.model import WorldModel
from dreamrun.training.state import list_checkpoints, load_state
from dreamrun.training.train_config import TrainConfig, num_training_steps


def test_short_run_writes_all_files(train_command, tmp_path):
    out = succeeded(train_command("--max-steps", 8, "--plot"))
    assert "device: CPU" in out and "no GPU in use" in out
    run = tmp_path / "run"
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8]
    assert [line["step"] for line in lines if "val/loss" in line] == [4, 8]
    assert all(np.isfinite(line["train/loss"]) for line in lines if "train/loss" in line)
    assert any("rollout/psnr_1" in line for line in lines)
    assert [line["step"] for line in lines if {"epoch/val_loss", "epoch/psnr", "epoch/ssim"} <= line.keys()] == [8]
    assert [path.name for path in list_checkpoints(run)] == ["step_0000004", "step_0000008"]
    assert (run / "checkpoints" / "latest").resolve().name == "step_0000008"
    assert (run / "rollouts" / "step_0000008.mp4").stat().st_size > 1000
    grid = Image.open(run / "rollouts" / "step_0000008.png")
    assert grid.height == 4 * 2 * 64 * 2 + 3 * 6  # four samples, a gap between
    assert Image.open(run / "metrics.png").width > 1000
    model = WorldModel.from_pretrained(run / "checkpoints" / "latest")
    assert model.game.actions.names == ("noop", "up", "down") and model.config.num_actions == 3
    assert model.game.environment == "pong" and model.game.fps == 15
    assert not list(run.rglob("*.tmp"))


def test_failed_rollout_only_warns(train_command, tmp_path, monkeypatch):
    fail = "dreamrun.training.validation.validation_rollout"
    monkeypatch.setattr(fail, lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel")))
    code, _, err = train_command("--max-steps", 2)
    assert code == 0 and "warning: the rollout at step 2 failed: no kernel" in err
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_0000002"]


def test_interrupted_run_saves_a_checkpoint(train_command, tmp_path):
    def interrupt_third(state, batch):
        if state.step == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    code, out, err = train_command("--max-steps", 50, before_step=interrupt_third)
    assert code == 130 and "Traceback" not in err
    assert "stopped at step 3" in out
    assert load_state(tmp_path / "run" / "checkpoints" / "latest")["step"] == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_out_of_memory_gives_advice_and_other_errors_do_not(train_command, tmp_path):
    def run(error):
        def fail(*_):
            raise error

        options = ("--max-steps", 4, "--batch-size", 16, "--accumulate", 2, "--out", tmp_path / str(error).split()[0])
        return train_command(*options, before_step=fail)

    advice = ("--batch-size (now 16)", "--accumulate (now 2)", "--activation-checkpointing", "--preset")
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED: CUDA error when calling `cublasCreate(handle)`"),
        RuntimeError("NCCL error: Cuda failure 2 'out of memory'"),
    ):
        refused(run(error), "out of memory with 8 clips at a time", *advice)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(RuntimeError("shapes do not match"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "huge"), ("unknown preset 'huge'", "nano", "small", "base")),
        (("--device", "cuda"), ("CUDA was asked for", "--device cpu")),
        (("--batch-size", 0), ("batch_size is 0",)),
        (("--batch-size", 10**6), ("batch_size 1000000 is more than",)),
        (("--clip-frames", 7), ("clips of 7 frames do not fit a window of 6",)),
        (("--resume", "nowhere"), ("cannot resume from nowhere",)),
        (("--data", "nowhere"), ("no data set at nowhere", "dreamrun collect")),
    ],
)
def test_mistakes_are_one_line(train_command, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    refused(train_command("--max-steps", 2, *options), *words)
    assert not (tmp_path / "run").exists()


def test_run_length():
    def num_steps(**options):
        return num_training_steps(TrainConfig("data", "out", **options), batches_per_epoch=10)

    assert (num_steps(), num_steps(epochs=3), num_steps(max_steps=25)) == (10, 30, 25)
    assert (num_steps(epochs=3, max_steps=25), num_steps(epochs=2, max_steps=25)) == (25, 20)


def test_failed_loader_ends_the_run_with_a_checkpoint(train_command, tmp_path, monkeypatch):
    collate = ClipDataset._collate

    def fail_after_twelve(self, records, epoch, record_ids, starts):
        fail_after_twelve.calls += 1
        if fail_after_twelve.calls > 12:
            raise RuntimeError("the disk is gone")
        return collate(self, records, epoch, record_ids, starts)

    fail_after_twelve.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(ClipDataset, "_collate", fail_after_twelve)
        code, _, err = train_command("--max-steps", 50, "--checkpoint-every", 100)
    (last,) = list_checkpoints(tmp_path / "run")
    step = load_state(last)["step"]
    assert_one_line(code, err, f"no more data at step {step} (RuntimeError: the disk is gone); saved in {last}")
    assert step > 5
    assert train_command("--max-steps", step + 1, "--resume", "auto")[0] == 0
