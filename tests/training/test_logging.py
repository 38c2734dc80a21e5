"""metrics.jsonl, metrics.png and Weights & Biases."""

import json
import re
import sys
from types import SimpleNamespace

from dreamrun.training import logging, plots
from dreamrun.training.logging import MetricsLog, Throughput, read_metrics


def test_resume_drops_metrics_of_later_steps(tmp_path):
    log = MetricsLog(tmp_path, 0, "off", "p", None, {})
    for step in (1, 2, 3):
        log.log(step, {"x": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "x"')  # killed while writing
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    MetricsLog(tmp_path, 2, "off", "p", None, {}).log(3, {"x": 30})
    assert [(line["step"], line["x"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [(1, 1), (2, 2), (3, 30)]


def test_metrics_that_are_not_finite_are_left_out(tmp_path):
    MetricsLog(tmp_path, 0, "off", "p", None, {}).log(1, {"x": 1.0, "y": float("nan"), "z": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "x": 1.0}


def test_throughput_counts_clips_since_the_last_read_without_pauses(monkeypatch):
    now = 10.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    throughput = Throughput(step=5, wait_secs=1.0)
    now = 12.0
    with throughput.paused():
        now = 50.0
    now = 52.0
    assert throughput.read(step=7, wait_secs=2.0, batch_size=8) == {"train/clips_per_sec": 4.0, "train/data_wait": 0.25}
    now = 53.0
    assert throughput.read(step=8, wait_secs=2.0, batch_size=8) == {"train/clips_per_sec": 8.0, "train/data_wait": 0.0}


def test_weights_and_biases_run_continues(tmp_path, monkeypatch):
    """A resumed run continues the same Weights & Biases run. A lost connection only warns."""

    class Run:
        def __init__(self, **options):
            self.options, self.id, self.lines = options, options["id"] or "new", []

        def log(self, values, step):
            if step == 2:
                raise ConnectionError("gone")
            self.lines.append((step, values))

        def finish(self):
            pass

    stub = SimpleNamespace(init=Run, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    assert MetricsLog(tmp_path, 0, "offline", "p", None, {}).wandb_id == "new"
    log = MetricsLog(tmp_path, 0, "offline", "p", None, {}, wandb_id="abc")
    assert log.wandb_id == "abc" and log._wandb.options["resume"] == "allow"
    for step in (1, 2, 3):
        log.log(step, {"x": step})
    log.close()
    assert [line["x"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert log.wandb_id == "abc"


def test_weights_and_biases_without_an_account(train_command, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = train_command("--max-steps", 2, "--wandb", "online")
    assert code == 0, err
    assert "not logged in to Weights & Biases" in err


def test_failed_metrics_plot_only_warns(train_command, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(plots, "draw_metrics", fail)
    code, _, err = train_command("--max-steps", 4)
    assert code == 0 and err.count("metrics.png could not be drawn: no fonts here") == 1
    assert not list((tmp_path / "run").glob("metrics.png*"))


def test_no_warning_where_nothing_was_logged_yet(train_command, tmp_path):
    """A checkpoint comes before the first line of metrics."""
    code, _, err = train_command(
        "--max-steps", 4, "--checkpoint-every", 1, "--log-every", 100, "--val-every", 100, "--rollout-every", 100
    )
    assert code == 0 and "warning" not in err
    plots.MetricsPlot(tmp_path).draw(last=True)
    assert not (tmp_path / "metrics.png").exists()


def test_loss_is_printed_where_there_is_no_progress_bar(train_command, monkeypatch):
    """The first one soon, then one now and then."""
    options = ("--max-steps", 8, "--val-every", 100, "--checkpoint-every", 100)
    code, out, _ = train_command(*options)
    assert code == 0
    assert re.findall(r"^step (\d+) of 8: loss \d\.\d{4}, [\d.]+ clips/s$", out, re.MULTILINE) == ["2"]
    monkeypatch.setattr(logging, "PLAIN_PROGRESS_SECS", 0.0)
    code, out, _ = train_command(*options, "--resume", "auto", "--max-steps", 12)
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


def test_lost_metrics_are_warned_of_once(tmp_path, capsys):
    log = MetricsLog(tmp_path, 0, "off", "p", None, {})
    for steps in ((1, 2), (4, 5)):
        (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
        (tmp_path / "metrics.jsonl").mkdir()  # it cannot be written to
        for step in steps:
            log.log(step, {"x": 1.0})
        assert capsys.readouterr().err.count("warning: cannot write the metrics of step") == 1
        (tmp_path / "metrics.jsonl").rmdir()
        log.log(3, {"x": 1.0})
