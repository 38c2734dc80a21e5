"""metrics.jsonl, metrics.png and Weights & Biases."""

import json
import sys
from types import SimpleNamespace

from training import plots
from training.logging import MetricsLog, Throughput, read_metrics


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
