"""Exported checkpoints, and the card that tells how one was made."""

import torch
from tiny import random_model, refused, succeeded

from dreamrun.model import WorldModel


def test_an_exported_checkpoint_is_small_and_says_how_it_was_made(train_command, tmp_path, run_script):
    succeeded(train_command("--max-steps", 4, "--bf16", "False", "--compile", "--no-compile", "--seed", 3))
    latest, out = tmp_path / "run" / "checkpoints" / "latest", tmp_path / "exported"
    (tmp_path / "report.md").write_text("PSNR 40 dB")
    options = ("--checkpoint", latest, "--out", out, "--report", tmp_path / "report.md")
    for _ in range(2):  # the second replaces the first
        succeeded(run_script("export_checkpoint", *options))
    assert {path.name for path in out.iterdir()} == {"config.json", "game.json", "model.safetensors", "README.md"}
    assert (out / "model.safetensors").stat().st_size < 0.6 * (latest / "model.safetensors").stat().st_size
    model, exported = WorldModel.from_pretrained(latest), WorldModel.from_pretrained(out)
    assert exported.config == model.config
    for ours, theirs in zip(model.parameters(), exported.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=2**-8, atol=0)

    card = (out / "README.md").read_text()
    assert "4 steps, 16 clips" in card and "PSNR 40 dB" in card and "step_0000004" in card
    assert "--max-steps 4 --bf16 False" in card


def test_an_export_can_get_other_defaults(tmp_path, run_script):
    random_model().save_pretrained(tmp_path / "checkpoint")
    options = ("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "out", "--num-steps", 3, "--guidance", 1.5)
    succeeded(run_script("export_checkpoint", *options))
    model = WorldModel.from_pretrained(tmp_path / "out")
    assert (model.config.num_steps, model.config.guidance) == (3, 1.5)
    assert "| guidance | 1.5 |" in (tmp_path / "out" / "README.md").read_text()


def test_an_export_replaces_an_export_alone(tmp_path, run_script):
    random_model().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "link").symlink_to(tmp_path / "out")

    def export(out):
        options = ("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / out)
        return run_script("export_checkpoint", *options)

    succeeded(export("out"))
    refused(export("link"), "is not an exported checkpoint alone")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refused(export("out"), "is not an exported checkpoint alone")
    (tmp_path / "out" / "notes.txt").unlink()
    succeeded(export("out"))


def test_wrong_options_give_one_line_of_error(tmp_path, run_script):
    random_model().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "precious").mkdir()
    for options, word in (
        (("--checkpoint", tmp_path / "absent", "--out", tmp_path / "out"), "no checkpoint at"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "precious"), "is not an exported checkpoint"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "o", "--report", tmp_path / "no"), "no report"),
        (("--checkpoint", tmp_path / "checkpoint", "--out", tmp_path / "o", "--guidance", -1), "guidance is -1"),
    ):
        refused(run_script("export_checkpoint", *options), word)
