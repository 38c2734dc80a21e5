"""Model cards: the commands that made a checkpoint, from run to run."""

import json
import shlex
import shutil

import pytest
from tiny import random_model

from training.config import TrainConfig
from training.loop import train
from training.model_card import commands, model_card, training_budget


@pytest.fixture
def data(pong_set, tmp_path):
    """A data set whose metadata holds the command that made it."""
    folder = tmp_path / "a data set"
    shutil.copytree(pong_set, folder)
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**metadata, "command": "python -m scripts.collect --env pong"}))
    return folder


def test_card_shows_the_commands_of_all_runs(train_command, data, tmp_path):
    first, second = tmp_path / "run" / "checkpoints", tmp_path / "second" / "checkpoints"
    base = ("--data", data, "--checkpoint-every", 2)
    assert train_command(*base, "--max-steps", 3)[0] == 0
    assert train_command(*base, "--max-steps", 5, "--resume", "auto")[0] == 0
    init = ("--init-from", first / "step_0000005", "--out", tmp_path / "second")
    assert train_command(*base, "--max-steps", 4, *init)[0] == 0

    collect, *runs = commands(second / "step_0000004")
    assert collect == "python -m scripts.collect --env pong"
    assert all(run.startswith("python train_world_model.py ") for run in runs)
    assert all(str(data) in shlex.split(run) for run in runs)  # quoted, since it has spaces
    assert [run.count("--resume auto") for run in runs] == [0, 1, 0] and "--init-from" in runs[2]
    assert len(commands(first / "step_0000002")) == 2  # it was made before the run was resumed at step 3
    card = model_card("me/second", random_model(), second / "step_0000004")
    assert all(line in card.splitlines() for line in (collect, *runs))
    assert training_budget(second / "step_0000004").startswith("9 steps, 36 clips, ")


def test_card_without_commands_leaves_the_section_out(train_command, tmp_path):
    """As of runs of old versions, which have no commands.jsonl."""
    assert train_command("--max-steps", 2)[0] == 0
    (tmp_path / "run" / "commands.jsonl").unlink()
    card = model_card("me/first", random_model(), tmp_path / "run" / "checkpoints" / "step_0000002")
    assert "How it was made" not in card and "2 steps, 8 clips" in card


def test_training_as_a_library_notes_no_command(pong_set, tmp_path, train_command):
    config = TrainConfig(pong_set, tmp_path / "run", preset="smallest", max_steps=1, batch_size=2, wandb="off")
    assert train(config) == tmp_path / "run" / "checkpoints" / "step_0000001"
    assert not (tmp_path / "run" / "commands.jsonl").exists()


def test_noted_command_has_the_step_where_training_began(train_command, tmp_path):
    assert train_command("--max-steps", 2)[0] == 0
    assert train_command("--max-steps", 4, "--resume", "auto")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "commands.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2] and lines[1]["command"].endswith("--resume auto")
