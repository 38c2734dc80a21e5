"""Runs that are stopped and resumed, or trained by other numbers of ranks, give the same result."""

import signal

import pytest
import torch
from runs import FEW, assert_same_run, ended, finish, start, values
from tiny import refused, succeeded

from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metrics_log import read_metrics
from dreamrun.model import WorldModel
from dreamrun.training.state import load_state

# Full attention and rectified flow, in play and in filling in
FULL_FLOW = ("--attention", "full", "--schedule", "linear", "--prediction", "velocity", "--fill-share", "0.3")
FULL_FLOW += ("--dim", "64", "--noise-levels", "teacher-forcing-logit-normal", "--scheduled-sampling", "0.4")
FULL_FLOW += ("--self-forcing", "0.4")

# The same run again


@pytest.mark.parametrize(("stops", "more"), [((4, 7, 11), ()), ((7,), FULL_FLOW)])
def test_stopped_run_resumes_bit_for_bit(train_command, tmp_path, stops, more):
    """Stopped at a checkpoint and between two, between two log lines, and before the end of an epoch."""
    options = ("--max-steps", 12, "--batch-size", 8, "--clip-stride", 64, "--resume", "auto", *more)
    assert ClipDataset(train_command.data, "train", 6, stride=64).num_batches(8) < 11
    succeeded(train_command(*options, "--out", tmp_path / "unbroken"))
    for stop in stops:

        def interrupt(state, batch, stop=stop):
            if state.step == stop - 1:
                signal.raise_signal(signal.SIGTERM)

        code, out, _ = train_command(*options, before_step=interrupt)
        assert code == 130 and f"stopped at step {stop}" in out
    succeeded(train_command(*options))
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")


def test_resume_continues_at_the_next_step(train_command, tmp_path):
    assert train_command("--max-steps", 4)[0] == 0
    assert "resumed" in succeeded(train_command("--max-steps", 8, "--resume", "auto"))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8]
    assert "nothing left to do" in succeeded(train_command("--max-steps", 8, "--resume", "auto"))


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(train_command, tmp_path):
    """One process can also resume what two ranks began: every clip is trained on, and none twice."""
    # Without bfloat16, whose rounding depends on the shape of the batch.
    options = (*FEW, "--max-steps", "50", "--fill-share", "0.3", "--bf16", "False")
    two = start(tmp_path / "two", train_command.data, *options, ranks=2, seen=tmp_path / "seen")
    assert train_command(*options, "--out", tmp_path / "one")[0] == 0
    output = finish(two)
    assert output.count("done: ") == output.count("ranks: 2") == 1
    names = ("train/loss", "val/loss", "val/fill_loss", "rollout/psnr_1", "epoch/val_loss", "epoch/psnr", "epoch/ssim")
    for name in names:
        one, both = (values(tmp_path / run, name) for run in ("one", "two"))
        assert one.keys() == both.keys() != set() and max(abs(one[step] - both[step]) for step in one) < 1e-3
    assert (tmp_path / "two" / "rollouts" / "step_0000050.mp4").is_file()

    seen = [clip for rank in range(2) for clip in (tmp_path / f"seen.{rank}").read_text().splitlines()]
    assert len(seen) == 50 * 4

    def note_clips(state, batch):
        seen.extend(
            f"{batch.number} {clip} {first}" for clip, first in zip(batch.record_ids, batch.starts, strict=True)
        )

    options = (*FEW, "--epochs", 1, "--resume", "auto", "--out", tmp_path / "two")
    assert train_command(*options, before_step=note_clips)[0] == 0
    data = ClipDataset(train_command.data, "train", 6, stride=10)
    assert len(seen) == len(set(seen)) == data.num_batches(4) * 4 > 50 * 4 + 100
    assert data.num_clips - len(seen) < 4  # the partial batch that is dropped


def test_two_ranks_train_full_attention_as_one_process_does(train_command, tmp_path):
    options = (*FEW, *FULL_FLOW, "--max-steps", "6", "--bf16", "False", "--rollout-every", "100", "--epoch-clips", "4")
    two = start(tmp_path / "two", train_command.data, *options, ranks=2)
    assert train_command(*options, "--out", tmp_path / "one")[0] == 0
    finish(two)
    for name in ("train/loss", "val/loss", "val/fill_loss"):
        one, both = (values(tmp_path / run, name) for run in ("one", "two"))
        assert one.keys() == both.keys() != set() and max(abs(one[step] - both[step]) for step in one) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "5"), "error: batch_size 5 cannot be shared evenly by 2 ranks times --accumulate 1"),
        (("--batch-size", "0"), "error: batch_size is 0: expected an integer of"),
        (("--batch-sise", "8"), "error: Unrecognized options: --batch-sise"),
    ],
    ids=["checked on the ranks", "value", "spelling"],
)
def test_mistake_under_torchrun_is_printed_once(pong_set, tmp_path, options, message):
    process = start(tmp_path / "run", pong_set, *options, ranks=2)
    output = ended(process)
    assert process.returncode != 0
    assert output.count(message) == output.count("error: ") == 1, output


# Where to start


def test_another_order_of_batches_begins_another_epoch(train_command, tmp_path, capsys):
    assert train_command("--max-steps", 4)[0] == 0
    code, _, err = train_command("--max-steps", 6, "--resume", "auto", "--batch-size", 8)
    assert code == 0 and "the order of batches has changed (batch_size 4 -> 8): a new epoch begins" in err
    state = load_state(tmp_path / "run" / "checkpoints" / "latest")
    assert (state["step"], state["epoch"], state["batch"]) == (6, 1, 2)


def test_run_folder_in_use_is_not_overwritten(train_command, tmp_path):
    assert train_command("--max-steps", 2)[0] == 0
    refused(train_command("--max-steps", 2), "already holds a run", "--resume auto", "--out")
    other = tmp_path / "run" / "checkpoints" / "latest"
    assert train_command("--max-steps", 3, "--out", tmp_path / "other", "--resume", other)[0] == 0
    refused(train_command("--max-steps", 9, "--out", tmp_path / "other", "--resume", other), "already holds a run")


def test_restart_by_torchrun_resumes_by_itself(train_command, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    code, out, _ = train_command("--max-steps", 4)  # no checkpoint yet
    assert code == 0 and "resumed" not in out
    out = succeeded(train_command("--max-steps", 6))
    assert "resumed from" in out and "step 4" in out


def test_new_run_from_initial_weights(train_command, tmp_path):
    assert train_command("--max-steps", 4)[0] == 0
    first = tmp_path / "run" / "checkpoints" / "latest"
    options = ("--max-steps", 2, "--init-from", first, "--learning-rate", 1e-9, "--out", tmp_path / "second")
    assert train_command(*options)[0] == 0
    old, new = (
        WorldModel.from_pretrained(path).state_dict() for path in (first, tmp_path / "second/checkpoints/latest")
    )
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in old)
    assert load_state(tmp_path / "second" / "checkpoints" / "latest")["step"] == 2
    first_line = read_metrics(tmp_path / "second" / "metrics.jsonl")[0]
    assert first_line["step"] == 0 and first_line["val/loss"] > 0
    result = train_command("--init-from", first, "--prediction", "v", "--out", tmp_path / "third")
    refused(result, "cannot start from", "prediction is x0, this run's is v")


def test_resume_names_the_field_that_differs(train_command):
    assert train_command("--max-steps", 2)[0] == 0
    for options, words in (
        (("--prediction", "v"), "its prediction is x0, this run's is v"),
        (("--optimizer", "muon"), "its optimizer is adamw, this run's is muon"),
        (("--window-frames", 4), "its window_frames is 6, this run's is 4"),
    ):
        result = train_command("--max-steps", 8, "--resume", "auto", *options)
        refused(result, "cannot resume", words)
        assert result[2].count("this run's") == 1
