"""Import of the published open-oasis checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import assert_one_line, command

from model import WorldModel

PARITY = Path(__file__).parents[1] / "parity"


def imported_parity_model(tmp_path, monkeypatch, capsys, source=PARITY / "open_oasis_tiny.pt"):
    out = tmp_path / "imported"
    code, _, err = command(monkeypatch, capsys, "scripts.import_open_oasis", source, out)
    assert code == 0, err
    return WorldModel.from_pretrained(out)


def test_a_published_checkpoint_gives_the_published_numbers(tmp_path, monkeypatch, capsys):
    model = imported_parity_model(tmp_path, monkeypatch, capsys)
    io = {name: torch.from_numpy(array) for name, array in np.load(PARITY / "open_oasis_tiny_io.npz").items()}
    with torch.inference_mode():
        v = model(io["frames"], (io["timestep"] + 1) / 1000, io["actions"])
    assert (v - io["v"]).abs().max() < 1e-5
    assert model.game.action_names[7] == "right" and model.game.environment == "coinrun"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_stripped(tmp_path, monkeypatch, capsys, prefix):
    published = torch.load(PARITY / "open_oasis_tiny.pt", weights_only=True)["model"]
    wrapped = tmp_path / "wrapped.pt"
    torch.save({"model": {prefix + name: tensor for name, tensor in published.items()}}, wrapped)
    model = imported_parity_model(tmp_path, monkeypatch, capsys, wrapped)
    torch.testing.assert_close(model.state_dict()["action_embedding.weight"], published["external_cond.weight"])


def test_import_names_what_is_missing_or_unexpected(tmp_path, monkeypatch, capsys):
    published = torch.load(PARITY / "open_oasis_tiny.pt", weights_only=True)["model"]
    published["surprise.weight"] = published.pop("blocks.1.t_mlp.fc2.bias")
    torch.save({"model": published}, tmp_path / "changed.pt")
    code, _, err = command(monkeypatch, capsys, "scripts.import_open_oasis", tmp_path / "changed.pt", tmp_path / "out")
    assert_one_line(code, err, "1 missing (blocks.1.temporal.mlp.fc2.bias)", "1 unexpected (surprise.weight)")
    assert not (tmp_path / "out").exists()


def test_import_refuses_other_files(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.pt").write_text("hello")
    for source, message in ((tmp_path / "text.pt", "not a checkpoint"), (tmp_path / "absent.pt", "no file")):
        code, _, err = command(monkeypatch, capsys, "scripts.import_open_oasis", source, tmp_path / "out")
        assert_one_line(code, err, message)
        assert not (tmp_path / "out").exists()
