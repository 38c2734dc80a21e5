"""Runs that are stopped, damaged or given other ranks: they go on as if nothing had happened."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import FEW, assert_same_run, ended, finish, start, values
from tiny import assert_one_line, random_model

from data.dataset import ClipDataset
from model import WorldModel
from training import checkpoint, loop
from training.checkpoint import find_checkpoint_to_resume, list_checkpoints, load_state, save_checkpoint
from training.logging import read_metrics
from training.step_stats import StepStats

# The same run again


@pytest.mark.parametrize("stop", [4, 7, 11])
def test_stopped_run_goes_on_bit_for_bit(train_command, tmp_path, monkeypatch, stop):
    """At a checkpoint's step and between them, between two lines of the log, and over the end of an epoch."""
    options = ("--max-steps", 12, "--batch-size", 8, "--clip-stride", 64)
    assert ClipDataset(train_command.data, "train", 6, stride=64).num_batches(8) < 11
    assert train_command(*options, "--out", tmp_path / "unbroken")[0] == 0
    update = loop.Trainer._update

    def interrupt(self, batch):
        if self.step == stop - 1:
            signal.raise_signal(signal.SIGTERM)
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", interrupt)
        code, out, _ = train_command(*options)
    assert code == 130 and f"stopped at step {stop}" in out
    assert train_command(*options, "--resume", "auto")[0] == 0
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")


def test_parts_of_a_batch_add_up_to_it(train_command, tmp_path):
    options = ("--max-steps", 10, "--log-every", 1, "--batch-size", 8)
    assert train_command(*options)[0] == 0
    assert train_command(*options, "--accumulate", 4, "--out", tmp_path / "parts")[0] == 0
    whole, parts = (values(tmp_path / name, "train/loss") for name in ("run", "parts"))
    assert max(abs(whole[step] - parts[step]) for step in whole) < 1e-3


def test_ranks_train_as_one_process_does(train_command, tmp_path, monkeypatch):
    """And what two of them begin, one ends: no clip is lost, none comes twice."""
    options = (*FEW, "--max-steps", "50", "--bf16", "False")  # bfloat16 rounds as the batch's shape has it
    two = start(tmp_path / "two", train_command.data, *options, ranks=2, seen=tmp_path / "seen")
    assert train_command(*options, "--out", tmp_path / "one")[0] == 0
    output = finish(two)
    assert output.count("done: ") == output.count("ranks: 2") == 1
    for name in ("train/loss", "val/loss", "rollout/psnr_1", "epoch/val_loss", "epoch/psnr", "epoch/ssim"):
        one, both = (values(tmp_path / run, name) for run in ("one", "two"))
        assert one.keys() == both.keys() != set() and max(abs(one[step] - both[step]) for step in one) < 1e-3
    assert (tmp_path / "two" / "rollouts" / "step_0000050.mp4").is_file()

    seen = [clip for rank in range(2) for clip in (tmp_path / f"seen.{rank}").read_text().splitlines()]
    assert len(seen) == 50 * 4
    update = loop.Trainer._update

    def note_clips(self, batch):
        seen.extend(f"{clip} {first}" for clip, first in zip(batch.record_ids, batch.starts, strict=True))
        return update(self, batch)

    monkeypatch.setattr(loop.Trainer, "_update", note_clips)
    assert train_command(*FEW, "--epochs", 1, "--resume", "auto", "--out", tmp_path / "two")[0] == 0
    data = ClipDataset(train_command.data, "train", 6, stride=10)
    assert len(seen) == len(set(seen)) == data.num_batches(4) * 4 > 50 * 4 + 100
    assert data.num_clips - len(seen) < 4  # the partial batch that is dropped


def test_mistake_under_torchrun_is_told_once(pong_set, tmp_path):
    process = start(tmp_path / "run", pong_set, "--batch-size", "5", ranks=2)
    output = ended(process)
    assert process.returncode != 0
    assert output.count("error: batch_size 5 cannot be shared evenly by 2 ranks times --accumulate 1") == 1


# Where to begin


def test_other_batches_begin_another_epoch(train_command, tmp_path, capsys):
    assert train_command("--max-steps", 4)[0] == 0
    code, _, err = train_command("--max-steps", 6, "--resume", "auto", "--batch-size", 8)
    assert code == 0 and "the batches are others now (batch_size 4 -> 8): a new epoch begins" in err
    state = load_state(tmp_path / "run" / "checkpoints" / "latest")
    assert (state["step"], state["epoch"], state["batch"]) == (6, 1, 2)


def test_run_folder_in_use_is_not_written_over(train_command, tmp_path):
    assert train_command("--max-steps", 2)[0] == 0
    code, _, err = train_command("--max-steps", 2)
    assert_one_line(code, err, "holds a run already", "--resume auto", "--out")
    other = tmp_path / "run" / "checkpoints" / "latest"
    assert train_command("--max-steps", 3, "--out", tmp_path / "other", "--resume", other)[0] == 0
    code, _, err = train_command("--max-steps", 9, "--out", tmp_path / "other", "--resume", other)
    assert_one_line(code, err, "holds a run already")


def test_restart_by_torchrun_goes_on_by_itself(train_command, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    code, out, _ = train_command("--max-steps", 4)  # there was nothing yet
    assert code == 0 and "resumed" not in out
    code, out, _ = train_command("--max-steps", 6)
    assert code == 0 and "resumed from" in out and "step 4" in out


def test_new_run_from_weights_alone(train_command, tmp_path):
    assert train_command("--max-steps", 4)[0] == 0
    first = tmp_path / "run" / "checkpoints" / "latest"
    options = ("--max-steps", 2, "--init-from", first, "--learning-rate", 1e-9, "--out", tmp_path / "second")
    assert train_command(*options)[0] == 0
    old, new = (
        WorldModel.from_pretrained(path).state_dict() for path in (first, tmp_path / "second/checkpoints/latest")
    )
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in old)
    assert load_state(tmp_path / "second" / "checkpoints" / "latest")["step"] == 2
    begun_with = read_metrics(tmp_path / "second" / "metrics.jsonl")[0]
    assert begun_with["step"] == 0 and begun_with["val/loss"] > 0
    code, _, err = train_command("--init-from", first, "--prediction", "v", "--out", tmp_path / "third")
    assert_one_line(code, err, "cannot start from", "prediction is x0, this run's is v")


# Checkpoints


def spoil(path: Path, how: str) -> None:
    weights = path / "model.safetensors"
    if how == "flipped bit":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif how == "truncated":
        os.truncate(weights, 1000)
    elif how == "missing":
        weights.unlink()
    else:
        (path / checkpoint.MANIFEST_FILE).unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("flipped bit", "model.safetensors has changed"),
        ("truncated", "model.safetensors has 1000 bytes of"),
        ("missing", "model.safetensors cannot be read"),
        ("no manifest", "it has no readable manifest.json"),
    ],
)
def test_damaged_checkpoint_is_passed_over(tmp_path, capsys, how, words):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, random_model(), {"step": step}, keep=3)
    first, second = list_checkpoints(tmp_path)
    assert find_checkpoint_to_resume("auto", tmp_path) == second and find_checkpoint_to_resume("", tmp_path) is None
    spoil(second, how)
    assert find_checkpoint_to_resume("auto", tmp_path) == first
    assert f"warning: {second} is damaged and passed over: {words}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=rf"cannot resume from {second}: .*{words}"):
        find_checkpoint_to_resume(str(second), tmp_path)
    spoil(first, how)
    with pytest.raises(ValueError, match=r"all checkpoints in .* are damaged"):
        find_checkpoint_to_resume("auto", tmp_path)


def test_the_best_is_kept_and_steps_gone_back_behind_are_not(tmp_path):
    losses = {1: 5.0, 2: 3.0, 3: None, 4: float("nan"), 5: 4.0, 6: 3.5}
    for step, loss in losses.items():
        save_checkpoint(tmp_path, step, random_model(), {"step": step}, keep=2, val_loss=loss)
    links = tmp_path / "checkpoints"
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["2", "5", "6"]
    assert (links / "best").resolve().name[-1] == "2" and (links / "latest").resolve().name[-1] == "6"
    save_checkpoint(tmp_path, 4, random_model(), {"step": 4}, keep=2, val_loss=1.0)
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["2", "4"]
    assert (links / "best").resolve().name[-1] == (links / "latest").resolve().name[-1] == "4"


def test_full_disk_costs_a_warning(train_command, tmp_path, monkeypatch):
    save = torch.save
    full = {"now": False}

    def save_or_not(*arguments):
        full["now"] = not full["now"]  # every second time
        if full["now"]:
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: No space left on device")
        save(*arguments)

    def no_video(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save_or_not)
    monkeypatch.setattr(loop, "write_mp4", no_video)
    code, _, err = train_command("--max-steps", 8)
    assert code == 0, err
    assert (
        "warning: step 4 could not be saved: PytorchStreamWriter failed" in err and "step_0000008.mp4 could not" in err
    )
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_0000008"]
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_saving_goes_on_beside_the_training(train_command, tmp_path, monkeypatch):
    """And is waited for in the end; what is written is as it was when the save began."""
    slow = checkpoint.save_checkpoint
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *a, **k: time.sleep(0.5) or slow(*a, **k))
    saved_at = {}
    save = checkpoint.CheckpointWriter.save

    def note(self, step, ema, state, val_loss=None):
        begun = time.perf_counter()
        save(self, step, ema, state, val_loss)
        saved_at[step] = (time.perf_counter() - begun, {name: value.clone() for name, value in state["model"].items()})

    monkeypatch.setattr(checkpoint.CheckpointWriter, "save", note)
    assert train_command("--max-steps", 5)[0] == 0
    took, weights = saved_at[4]
    assert took < 0.25
    written = load_state(tmp_path / "run" / "checkpoints" / "step_0000004")["model"]
    assert all(torch.equal(written[name], weights[name]) for name in weights)
    assert load_state(tmp_path / "run" / "checkpoints" / "latest")["step"] == 5


# Guards


def test_bad_steps_are_counted_and_change_nothing(train_command, tmp_path, monkeypatch):
    loss, weights = loop.Trainer._loss, {}

    def bad_at_three_and_six(self, *part):
        weights[self.step] = [parameter.detach().clone() for parameter in self.model.parameters()]
        factor = {3: float("nan"), 6: float("inf")}.get(self.step, 1.0)
        return loss(self, *part) * factor

    monkeypatch.setattr(loop.Trainer, "_loss", bad_at_three_and_six)
    assert train_command("--max-steps", 8, "--log-every", 1, "--max-bad-steps", 2)[0] == 0
    assert list(values(tmp_path / "run", "train/bad_steps").values()) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sorted(values(tmp_path / "run", "train/loss")) == [1, 2, 3, 5, 6, 8]
    for step in range(7):
        same = all(torch.equal(a, b) for a, b in zip(weights[step], weights[step + 1], strict=True))
        assert same == (step in (3, 6))


def test_bad_steps_in_a_row_end_the_run(train_command, tmp_path, monkeypatch):
    loss = loop.Trainer._loss
    monkeypatch.setattr(loop.Trainer, "_loss", lambda self, *part: loss(self, *part) * (1 if self.step < 5 else np.nan))
    code, _, err = train_command("--max-steps", 50, "--max-bad-steps", 3)
    assert_one_line(code, err, "steps in a row up to step 8", "not finite", "--max-bad-steps 3", "step_0000004")
    assert load_state(find_checkpoint_to_resume("auto", tmp_path / "run"))["step"] == 4


def test_broken_weights_are_not_saved(train_command, tmp_path, monkeypatch):
    update = loop.Trainer._update

    def break_at_six(self, batch):
        if self.step == 6:
            next(self.model.parameters()).data[0] = torch.inf
        return update(self, batch)

    monkeypatch.setattr(loop.Trainer, "_update", break_at_six)
    code, _, err = train_command("--max-steps", 50, "--max-bad-steps", 30, "--rollout-every", 100)
    assert_one_line(code, err, "the weights are no longer finite at step 8: go on from", "step_0000004")
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_0000004"]


def test_counts_survive_a_checkpoint():
    counts, nan, one = StepStats(torch.device("cpu")), torch.tensor(torch.nan), torch.tensor(1.0)
    assert [counts.add(loss, norm).item() for loss, norm in ((one, one), (nan, one), (one, nan))] == [0, 1, 1]
    again = StepStats(torch.device("cpu"))
    again.load_state_dict({name: value.clone() for name, value in counts.state_dict().items()})
    again.add(nan, nan)
    again.add(one * 3, one)
    reading = again.read()
    assert (reading.mean_loss, reading.bad_steps, reading.max_bad_streak) == (2.0, 3, 3)
    assert np.isnan(again.read().mean_loss) and counts.max_bad_streak() == 2


def test_loader_that_dies_ends_the_run_with_a_checkpoint(train_command, tmp_path, monkeypatch):
    collate = ClipDataset._collate

    def die_in_the_end(self, records, epoch, record_ids, starts):
        die_in_the_end.calls += 1
        if die_in_the_end.calls > 12:
            raise RuntimeError("the disk is gone")
        return collate(self, records, epoch, record_ids, starts)

    die_in_the_end.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(ClipDataset, "_collate", die_in_the_end)
        code, _, err = train_command("--max-steps", 50, "--checkpoint-every", 100)
    (last,) = list_checkpoints(tmp_path / "run")
    step = load_state(last)["step"]
    assert_one_line(code, err, f"no more data at step {step} (RuntimeError: the disk is gone); saved in {last}")
    assert step > 5
    assert train_command("--max-steps", step + 1, "--resume", "auto")[0] == 0
