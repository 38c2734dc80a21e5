"""The command scripts.export_checkpoint, and the model card."""

import shlex

import torch
import tyro
from tiny import assert_one_line, command, random_model

from data.games.collect import CollectConfig
from model import WorldModel
from training.config import TrainConfig
from training.model_card import commands, training_budget


def test_an_exported_checkpoint_is_small_and_its_card_has_the_commands(train_command, monkeypatch, capsys, tmp_path):
    code, _, err = train_command("--max-steps", 4, "--bf16", "False", "--compile", "--no-compile", "--seed", 3)
    assert code == 0, err
    latest, out = tmp_path / "run" / "checkpoints" / "latest", tmp_path / "exported"
    (tmp_path / "report.md").write_text("PSNR 40 dB")
    options = ("--checkpoint", latest, "--out", out, "--report", tmp_path / "report.md")
    for _ in range(2):  # the second replaces the first
        code, _, err = command(monkeypatch, capsys, "scripts.export_checkpoint", *options)
        assert code == 0, err
    assert {path.name for path in out.iterdir()} == {"config.json", "game.json", "model.safetensors", "README.md"}
    assert (out / "model.safetensors").stat().st_size < 0.6 * (latest / "model.safetensors").stat().st_size
    model, exported = WorldModel.from_pretrained(latest), WorldModel.from_pretrained(out)
    assert exported.config == model.config
    for original, rounded in zip(model.parameters(), exported.parameters(), strict=True):
        torch.testing.assert_close(rounded, original, rtol=2**-8, atol=0)

    card = (out / "README.md").read_text()
    assert "4 steps, 16 clips" in card and "PSNR 40 dB" in card and "step_0000004" in card
    collect, train = (line for line in card.splitlines() if line.startswith("python "))
    collected = tyro.cli(CollectConfig, args=shlex.split(collect)[3:])
    assert (collected.env, collected.records, str(collected.out)) == ("pong", 24, "datasets/pong")
    trained = tyro.cli(TrainConfig, args=shlex.split(train)[2:])
    assert (trained.preset, trained.bf16, trained.seed, trained.max_steps) == ("smallest", False, 3, 4)
    assert str(trained.data) == "datasets/pong" and str(trained.out) == "runs/run"


def test_a_card_has_the_commands_of_all_runs_of_a_training(train_command, tmp_path):
    first = tmp_path / "run" / "checkpoints" / "step_0000002"
    assert train_command("--max-steps", 3, "--decay-fraction", 0, "--checkpoint-every", 2)[0] == 0
    options = ("--max-steps", 4, "--init-from", first, "--out", tmp_path / "runs" / "second")
    assert train_command(*options)[0] == 0
    second = tmp_path / "runs" / "second" / "checkpoints" / "step_0000004"
    collect, *runs = commands(second)
    assert collect.startswith("python -m scripts.collect") and len(runs) == 2
    first_run, second_run = (tyro.cli(TrainConfig, args=shlex.split(run)[2:]) for run in runs)
    assert (first_run.max_steps, str(first_run.out), first_run.init_from) == (2, "runs/run", "")
    assert (second_run.max_steps, str(second_run.out)) == (4, "runs/second")
    assert training_budget(second).startswith("6 steps, 24 clips, ")


def test_wrong_options_give_one_line_of_error(monkeypatch, capsys, tmp_path):
    random_model().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "precious").mkdir()
    for options, word in (
        (("--checkpoint", tmp_path / "absent", "--out", tmp_path / "out"), "no checkpoint at"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "precious"), "not an exported checkpoint"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "o", "--report", tmp_path / "no"), "no report"),
    ):
        code, _, err = command(monkeypatch, capsys, "scripts.export_checkpoint", *options)
        assert_one_line(code, err, word)
