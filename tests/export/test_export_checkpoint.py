"""Exported checkpoints, and the card that tells how one was made."""

import torch
from tiny import assert_one_line, command, random_model

from dreamrun.model import WorldModel


def test_an_exported_checkpoint_is_small_and_says_how_it_was_made(train_command, monkeypatch, capsys, tmp_path):
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
    for ours, theirs in zip(model.parameters(), exported.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=2**-8, atol=0)

    card = (out / "README.md").read_text()
    assert "4 steps, 16 clips" in card and "PSNR 40 dB" in card and "step_0000004" in card
    assert "--max-steps 4 --bf16 False" in card


def test_an_export_can_get_other_defaults(monkeypatch, capsys, tmp_path):
    random_model().save_pretrained(tmp_path / "checkpoint")
    options = ("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "out", "--num-steps", 3, "--guidance", 1.5)
    code, _, err = command(monkeypatch, capsys, "scripts.export_checkpoint", *options)
    assert code == 0, err
    model = WorldModel.from_pretrained(tmp_path / "out")
    assert (model.config.num_steps, model.config.guidance) == (3, 1.5)
    assert "| guidance | 1.5 |" in (tmp_path / "out" / "README.md").read_text()


def test_wrong_options_give_one_line_of_error(monkeypatch, capsys, tmp_path):
    random_model().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "precious").mkdir()
    for options, word in (
        (("--checkpoint", tmp_path / "absent", "--out", tmp_path / "out"), "no checkpoint at"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "precious"), "is not an exported checkpoint"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "o", "--report", tmp_path / "no"), "no report"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "o", "--guidance", -1), "guidance is -1"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "o", "--num-steps", 0), "num_steps is 0"),
    ):
        code, _, err = command(monkeypatch, capsys, "scripts.export_checkpoint", *options)
        assert_one_line(code, err, word)
