"""The command that compares how long rollouts of several checkpoints and settings drift."""

import json
from dataclasses import replace

import pytest
from tiny import LITTLE, SMALLEST, assert_one_line, command, random_model

from dreamrun.model import GameInfo


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(*options): compare in an empty folder, with short rollouts."""
    monkeypatch.chdir(tmp_path)
    sizes = replace(LITTLE, drift_frames=120)  # four windows of two seconds
    monkeypatch.setattr("dreamrun.evaluation.config.FULL", sizes)
    monkeypatch.setattr("dreamrun.scripts.compare_drift.FULL", LITTLE)
    return lambda *options: command(monkeypatch, capsys, "scripts.compare_drift", *options)


def save(folder, seed):
    model = random_model(replace(SMALLEST, num_actions=3), game=GameInfo(environment="pong"), seed=seed)
    model.save_pretrained(folder)


@pytest.mark.parametrize("setting", ["num_steps", "guidance"])
def test_a_row_for_every_combination(run, monkeypatch, tmp_path, pong_set, setting):
    save("a", 0)
    save("b", 1)
    option = f"--{setting.replace('_', '-')}"
    options = ("--checkpoints", "a", "b", "--data", pong_set, option, "1", "2", "--num-rollouts", "3")
    code, printed, err = run(*options)
    assert code == 0, err
    results = json.loads((tmp_path / "drift" / "drift.json").read_text())
    assert [(row["checkpoint"], row[setting]) for row in results] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    brightness = [row["drift"]["statistics"]["brightness"][-1]["value"] for row in results]
    assert len(set(brightness)) == 4  # each row is of its own checkpoint and setting
    assert all(row["drift"]["collapsed"]["n"] == 3 and "alive" in row["objects"] for row in results)
    table = (tmp_path / "drift" / "drift.md").read_text()
    assert table in printed and len(table.splitlines()) == 2 + 4
    assert not list((tmp_path / "drift").rglob("*.npy"))  # the rollouts take a lot of room

    monkeypatch.setattr("dreamrun.scripts.compare_drift.drift_section", None)
    code, again, err = run(*options)  # from the cache
    assert code == 0 and table in again, err


@pytest.mark.parametrize(
    "options, words",
    [
        (("--checkpoints",), "checkpoints names nothing to compare"),
        (("--checkpoints", "a", "--num-rollouts", "0"), "num_rollouts is 0"),
        (("--checkpoints", "a", "--num-steps", "0"), "num_steps is 0"),
        (("--checkpoints", "a", "--guidance", "-1"), "guidance is -1"),
        (("--checkpoints", "a", "--context-noise", "1"), "context_noise is 1"),
        (("--checkpoints", "missing"), "missing"),
    ],
)
def test_mistakes(run, tmp_path, pong_set, options, words):
    save("a", 0)
    code, _, err = run(*options, "--data", pong_set)
    assert_one_line(code, err)
    assert words in err
    assert not (tmp_path / "drift").exists()
