"""metrics.jsonl and Weights & Biases."""

import json
import sys
from types import SimpleNamespace

from dreamrun.data.metrics_log import MetricsLog, read_metrics


def test_resume_drops_metrics_of_later_steps(tmp_path):
    log = MetricsLog(tmp_path, 0, "off", "p", None, {})
    for step in (1, 2, 3):
        log.log(step, {"x": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "x"')  # killed while writing
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    MetricsLog(tmp_path, 2, "off", "p", None, {}).log(3, {"x": 30})
    assert [(line["step"], line["x"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [(1, 1), (2, 2), (3, 30)]


def test_a_new_run_keeps_old_metrics(tmp_path):
    """The checkpoints of the old run are gone, so that nothing else says that there was one."""
    for number in (1, 2, 3):
        MetricsLog(tmp_path, 0, "off", "p", None, {}).log(5, {"x": number})
    values = {path.name: read_metrics(path)[0]["x"] for path in tmp_path.iterdir()}
    assert values == {"metrics_1.jsonl": 1, "metrics_2.jsonl": 2, "metrics.jsonl": 3}


def test_metrics_that_are_not_finite_are_left_out(tmp_path):
    MetricsLog(tmp_path, 0, "off", "p", None, {}).log(1, {"x": 1.0, "y": float("nan"), "z": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "x": 1.0}


def test_weights_and_biases_run_continues(tmp_path, monkeypatch, capsys):
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
    monkeypatch.setenv("HOME", str(tmp_path))  # without an account
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert MetricsLog(tmp_path, 3, "online", "p", None, {})._wandb.options["mode"] == "offline"
    assert "not logged in to Weights & Biases" in capsys.readouterr().err
    assert [line["x"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert log.wandb_id == "abc"


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
