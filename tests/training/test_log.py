"""What a run prints, and its plot."""

import re

from tiny import succeeded

from dreamrun.training import log
from dreamrun.training.log import Throughput


def test_throughput_counts_clips_since_the_last_read_without_pauses(monkeypatch):
    now = 10.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    throughput = Throughput(step=5)
    now = 11.0
    with throughput.waiting():
        now = 12.0
    with throughput.paused():
        now = 50.0
    now = 52.0
    assert throughput.read(step=7, batch_size=8) == {"train/clips_per_sec": 4.0, "train/data_wait": 0.25}
    now = 53.0
    assert throughput.read(step=8, batch_size=8) == {"train/clips_per_sec": 8.0, "train/data_wait": 0.0}


def test_failed_metrics_plot_only_warns(train_command, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(log, "draw_metrics", fail)
    code, _, err = train_command("--max-steps", 4, "--plot")
    assert code == 0 and err.count("metrics.png could not be drawn: no fonts here") == 1
    assert not list((tmp_path / "run").glob("metrics.png*"))


def test_no_warning_where_nothing_was_logged_yet(train_command, tmp_path):
    """A checkpoint comes before the first line of metrics."""
    code, _, err = train_command(
        *("--max-steps", 4, "--checkpoint-every", 1, "--log-every", 100, "--val-every", 100, "--rollout-every", 100),
        "--plot",
    )
    assert code == 0 and "warning" not in err


def test_loss_is_printed_where_there_is_no_progress_bar(train_command, monkeypatch):
    """The first one soon, then one now and then."""
    options = ("--max-steps", 8, "--val-every", 100, "--checkpoint-every", 100)
    out = succeeded(train_command(*options))
    assert re.findall(r"^step (\d+) of 8: loss \d\.\d{4}, [\d.]+ clips/s$", out, re.MULTILINE) == ["2"]
    monkeypatch.setattr(log, "PLAIN_PROGRESS_SECS", 0.0)
    out = succeeded(train_command(*options, "--resume", "auto", "--max-steps", 12))
    assert re.findall(r"^step (\d+) of 12: loss", out, re.MULTILINE) == ["10", "12"]


def test_both_validation_losses_of_a_step_say_what_they_are_of(train_command):
    _, out, _ = train_command("--max-steps", 4, "--epoch-clips", 100_000)
    val = re.search(r"step 4: val loss [\d.]+ on (\d+) fixed clips, ", out)
    epoch = re.search(r"epoch [\d.]+: val loss [\d.]+ on all (\d+) clips of val, ", out)
    assert val and epoch and int(val[1]) == 8 < int(epoch[1])
    _, out, _ = train_command("--max-steps", 8, "--resume", "auto", "--epoch-clips", 5)
    assert f"on 5 of the {epoch[1]} clips of val" in out
    _, out, _ = train_command("--max-steps", 12, "--resume", "auto", "--epoch-clips", 9, "--val-batches", 1)
    assert "step 12: val loss" in out and "on 4 fixed clips" in out
