"""The command that compares how long rollouts of several checkpoints and settings drift."""

import json
from dataclasses import replace

import pytest
from tiny import SMALLEST, assert_one_line, command, random_model

from dreamrun.games.game import Game
from dreamrun.games.space import unnamed_actions


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(*options): compare in an empty folder, with long rollouts of four windows of two seconds."""
    monkeypatch.chdir(tmp_path)
    return lambda *options: command(monkeypatch, capsys, "scripts.compare_drift", "--num-frames", 120, *options)


def save(folder, seed):
    model = random_model(replace(SMALLEST, num_actions=3), game=Game("pong", actions=unnamed_actions(3)), seed=seed)
    model.save_pretrained(folder)


@pytest.mark.parametrize(("checkpoints", "setting"), [(("a", "b"), "num_steps"), (("a",), "guidance")])
def test_a_row_for_every_combination(run, tmp_path, pong_set, checkpoints, setting):
    save("a", 0)
    save("b", 1)
    option = f"--{setting.replace('_', '-')}"
    options = ("--checkpoints", *checkpoints, "--data", pong_set, option, "1", "2", "--num-rollouts", "2")
    code, printed, err = run(*options)
    assert code == 0 and "long rollouts, 1 of 1" in err, err
    results = json.loads((tmp_path / "drift" / "drift.json").read_text())
    assert [(row["checkpoint"], row[setting]) for row in results] == [
        (name, value) for name in checkpoints for value in (1, 2)
    ]
    brightness = [row["drift"]["statistics"]["brightness"][-1]["value"] for row in results]
    assert len(set(brightness)) == len(results)  # each row is of its own checkpoint and setting
    assert all(row["drift"]["collapsed"]["n"] == 2 and "alive" in row["objects"] for row in results)
    table = (tmp_path / "drift" / "drift.md").read_text()
    assert table in printed and len(table.splitlines()) == 2 + len(results)
    assert not list((tmp_path / "drift").rglob("*.npy"))  # the rollouts take a lot of room

    code, again, err = run(*options)
    assert code == 0 and table in again and "long rollouts" not in err, err  # from the cache


@pytest.mark.parametrize(
    "options, words",
    [
        (("--checkpoints",), "checkpoints names nothing to compare"),
        (("--checkpoints", "a", "--num-rollouts", "0"), "num_rollouts is 0"),
        (("--checkpoints", "a", "--num-steps", "0"), "num_steps is 0"),
        (("--checkpoints", "missing"), "missing"),
    ],
)
def test_mistakes(run, tmp_path, pong_set, options, words):
    save("a", 0)
    code, _, err = run(*options, "--data", pong_set)
    assert_one_line(code, err)
    assert words in err
    assert not (tmp_path / "drift").exists()
