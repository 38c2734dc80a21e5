"""Model cards: the commands that made a checkpoint, from run to run."""

import json
import shlex
import shutil
from html import unescape

import numpy as np
import pytest
from hostile_names import HOSTILE_NAMES
from markdown_it import MarkdownIt
from tiny import random_model

from dreamrun.data.metrics_log import MetricsLog, read_metrics
from dreamrun.export.model_card import commands, model_card, training_budget
from dreamrun.games.game import Game
from dreamrun.games.space import ActionSpace
from dreamrun.play.follow import curves
from dreamrun.training.log import draw_metrics
from dreamrun.training.loop import train
from dreamrun.training.train_config import TrainConfig


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
    assert all(run.startswith("dreamrun train ") for run in runs)
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


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_from_files_are_text_in_a_card(name, tmp_path):
    """Names of the game, its options and actions, of the checkpoint's folder, and the commands of a run."""
    run, folder = tmp_path / "run", name.replace("/", ":")
    (run / "checkpoints").mkdir(parents=True)
    values = {"init_from": str(run / "checkpoints" / folder), "data": str(tmp_path), "batch_size": 4}  # it names itself
    (run / "train_config.json").write_text(json.dumps(values))
    (run / "commands.jsonl").write_text(json.dumps({"command": f"\x1b{name}\n```\n{name}", "step": 0}))
    actions = ActionSpace((name, "b", "c"), ((),) * 3, (0,))
    game = Game(environment=name, environment_options=((name, name),), actions=actions)
    card = model_card("me/first", random_model(game=game), run / "checkpoints" / folder)
    assert "\x1b" not in card and 'from_pretrained("me/first")' in card
    rendered = MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2])
    assert unescape(rendered).count(name) == 6 + (folder == name), rendered
    for tag in ("<script", "<img", "<a ", "<b>", "<em>", "<strong>"):
        assert tag not in rendered
    assert rendered.count("<pre>") == 2 and rendered.count("<table>") == 1 and rendered.count("<code") == 2


HOSTILE_LINES = [
    b"[1, 2]",
    b"5",
    b"null",
    b'"text"',
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"[" * 200_000,
    b'{"step": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b"{}",
    b'{"step": null, "train/loss": 1}',
    b'{"step": "1", "train/loss": 1}',
    b'{"step": 1.5, "train/loss": 1}',
    b'{"step": true, "train/loss": 1}',
    b'{"step": -1, "train/loss": 1}',
    b'{"step": 1' + b"0" * 400 + b', "train/loss": 1}',
    b'{"step": 1' + b"0" * 10**5 + b"}",
    b'{"step": 1, "train/loss": "0.5", "val/loss": null, "epoch/psnr": [1], "train/lr": {"a": 1}}',
    b'{"step": 1, "train/loss": NaN, "val/loss": Infinity, "epoch/psnr": -Infinity, "epoch/ssim": true}',
    b'{"step": 1, "train/loss": 1e308, "val/loss": -1e308, "epoch/psnr": 1e999, "train/clips_per_sec": 5e-324}',
    b'{"step": 1, "train/loss": 1' + b"0" * 400 + b"}",
    b'{"step": 1, "\\u001b[31m": 1, "train/clips_per_sec": 0}',
    json.dumps({"step": 1, **{f"name{i}": i for i in range(50_000)}}).encode(),
    b'{"step": 1, "train/loss": 1, "x": "' + b"x" * 2**20 + b'"}',
    json.dumps({"step": 0, "command": "\x1b]0;title\x07" + "x" * 10**5}).encode(),
    json.dumps({"step": 0, "command": ["rm"]}).encode(),
]


def test_hostile_lines_of_a_run_are_left_out(tmp_path):
    """In metrics.jsonl and commands.jsonl: resuming, plots and cards read what is left."""
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step_0000002"
    checkpoint.mkdir(parents=True)
    values = {"init_from": "", "data": "\0", "batch_size": 4}
    (run / "train_config.json").write_text(json.dumps(values))
    good = [json.dumps({"step": step, "train/loss": 0.5, "train/clips_per_sec": 4}).encode() for step in (1, 2, 3)]
    for name in ("metrics.jsonl", "commands.jsonl"):
        (run / name).write_bytes(b"\n".join([good[0], *HOSTILE_LINES, *good[1:]]))
    lines = read_metrics(run / "metrics.jsonl")
    assert [line for line in lines if line.get("train/loss") == 0.5] == [json.loads(line) for line in good]
    assert all(type(value) in (int, float) and abs(value) < 1e101 for line in lines for value in line.values())
    draw_metrics(run)
    assert all(np.isfinite(table.value).all() and len(table) for table in curves(run)[:1])
    card = model_card("me/first", random_model(), checkpoint)
    assert "\x1b" not in card and len(card) < 20_000 and "| train/loss | 0.5 |" in card
    MetricsLog(run, 2, "off", "p", None, {}).log(3, {"train/loss": 0.25})
    assert [line["train/loss"] for line in read_metrics(run / "metrics.jsonl") if line["step"] > 1] == [0.5, 0.25]


def test_a_run_with_hostile_lines_is_resumed(train_command, tmp_path):
    assert train_command("--max-steps", 2)[0] == 0
    for name in ("metrics.jsonl", "commands.jsonl"):
        with (tmp_path / "run" / name).open("ab") as file:
            file.write(b"\n".join(line for line in HOSTILE_LINES if len(line) < 10**6) + b"\n")
    code, _, err = train_command("--max-steps", 4, "--resume", "auto")
    assert code == 0 and "\x1b" not in err, err
    assert "warning" not in err
    assert [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")][-1] == 4
