"""Import of the published open-oasis checkpoints."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import assert_one_line, command, refused, succeeded

from dreamrun.model import WorldModel

PARITY = Path(__file__).parents[1] / "parity"


def imported_parity_model(tmp_path, monkeypatch, capsys, source=PARITY / "open_oasis_tiny.pt"):
    out = tmp_path / "imported"
    succeeded(command(monkeypatch, capsys, "scripts.import_open_oasis", source, out))
    return WorldModel.from_pretrained(out)


def test_a_published_checkpoint_gives_the_published_numbers(tmp_path, monkeypatch, capsys):
    model = imported_parity_model(tmp_path, monkeypatch, capsys)
    io = {name: torch.from_numpy(array) for name, array in np.load(PARITY / "open_oasis_tiny_io.npz").items()}
    with torch.inference_mode():
        v = model(io["frames"], (io["timestep"] + 1) / 1000, io["actions"])
    assert (v - io["v"]).abs().max() < 1e-5
    assert model.game.actions.names[7] == "right" and model.game.environment == "coinrun"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_stripped(tmp_path, monkeypatch, capsys, prefix):
    published = torch.load(PARITY / "open_oasis_tiny.pt", weights_only=True)["model"]
    wrapped = tmp_path / "wrapped.pt"
    torch.save({"model": {prefix + name: tensor for name, tensor in published.items()}}, wrapped)
    model = imported_parity_model(tmp_path, monkeypatch, capsys, wrapped)
    torch.testing.assert_close(model.state_dict()["action_embedding.weight"], published["external_cond.weight"])


def prefixed(prefix, weights, **more):
    return {**{prefix + name: tensor for name, tensor in weights.items()}, **more}


COUNTERS = {"bn.num_batches_tracked": torch.tensor(7), "step": 7, "n_averaged": torch.tensor(3)}
LAYOUTS = {
    "safetensors": lambda weights, other: weights,
    "raw": lambda weights, other: weights,
    "raw with counters": lambda weights, other: {**weights, **COUNTERS},
    "ema only": lambda weights, other: {"ema": weights, "step": 3, "optimizer": {"state": {}, "param_groups": []}},
    "both": lambda weights, other: {"ema": other, "model": weights},
    "averaged model": lambda weights, other: {"ema_state_dict": prefixed("module.", weights, **COUNTERS)},
    "Lightning": lambda weights, other: {
        "pytorch-lightning_version": "2.4", "epoch": 1, "global_step": 9, "hyper_parameters": {"lr": 0.1},
        "state_dict": prefixed(
            "diffusion_model.model._orig_mod.", weights, **prefixed("ema.", other), **{"vae.weight": torch.ones(9)}
        ),
    },
    "compiled blocks": lambda weights, other: {
        "model": {name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in weights.items()}
    },
    "rotary buffers": lambda weights, other: {**weights, "temporal_rotary_emb.cached_freqs": torch.ones(3, 4)},
    "float64": lambda weights, other: {name: tensor.double() for name, tensor in weights.items()},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_others_save_are_read(tmp_path, monkeypatch, capsys, layout):
    weights = published_weights()
    other = {name: tensor + 1 for name, tensor in weights.items()}
    source = tmp_path / "source.ckpt"
    (save_file if layout == "safetensors" else torch.save)(LAYOUTS[layout](weights, other), source)
    expected = imported_parity_model(tmp_path / "expected", monkeypatch, capsys).state_dict()
    for name, weight in imported_parity_model(tmp_path, monkeypatch, capsys, source).state_dict().items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("again", [False, True])
def test_weights_in_16_bits_have_rounded_frequencies(tmp_path, monkeypatch, capsys, kind, again):
    weights = {name: tensor.to(kind) for name, tensor in published_weights().items()}
    torch.save({n: tensor.float() for n, tensor in weights.items()} if again else weights, tmp_path / "half.pt")
    model = imported_parity_model(tmp_path, monkeypatch, capsys, tmp_path / "half.pt")
    assert torch.equal(model.state_dict()["action_embedding.weight"], weights["external_cond.weight"].float())
    weights["temporal_rotary_emb.freqs"] = weights["temporal_rotary_emb.freqs"] * 1.02
    torch.save(weights, tmp_path / "other.pt")
    refused(
        command(monkeypatch, capsys, "scripts.import_open_oasis", tmp_path / "other.pt", tmp_path / "out"),
        "temporal_rotary_emb.freqs differs from the rotary frequencies",
    )


def test_objects_beside_the_weights_are_named(tmp_path, monkeypatch, capsys):
    torch.save({"state_dict": published_weights(), "hyper_parameters": argparse.Namespace(lr=1)}, tmp_path / "a.ckpt")
    refused(
        command(monkeypatch, capsys, "scripts.import_open_oasis", tmp_path / "a.ckpt", tmp_path / "out"),
        "it holds a argparse.Namespace: save its state dict alone",
    )


def test_import_names_what_is_missing_or_unexpected(tmp_path, run_script):
    published = torch.load(PARITY / "open_oasis_tiny.pt", weights_only=True)["model"]
    published["surprise.weight"] = published.pop("blocks.1.t_mlp.fc2.bias")
    torch.save({"model": published}, tmp_path / "changed.pt")
    result = run_script("import_open_oasis", tmp_path / "changed.pt", tmp_path / "out")
    refused(result, "1 missing (blocks.1.temporal.mlp.fc2.bias)", "1 unexpected (surprise.weight)")
    assert not (tmp_path / "out").exists()


def test_import_refuses_other_files(tmp_path, run_script):
    (tmp_path / "text.pt").write_text("hello")
    for source, message in ((tmp_path / "text.pt", "not a checkpoint"), (tmp_path / "absent.pt", "no file")):
        refused(run_script("import_open_oasis", source, tmp_path / "out"), message)
        assert not (tmp_path / "out").exists()


def published_weights(**changes) -> dict:
    return {**torch.load(PARITY / "open_oasis_tiny.pt", weights_only=True)["model"], **changes}


class _Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


HOSTILE = {
    "code": (lambda victim: {"model": published_weights(), "more": _Touches(victim)}, "not a checkpoint"),
    "no dict": (lambda _: [1, 2], "not a checkpoint"),
    "model a list": (lambda _: {"model": [1]}, "x_embedder.proj.weight is missing"),
    "model a tensor": (lambda _: {"model": torch.zeros(3)}, "x_embedder.proj.weight is missing"),
    "names of numbers": (lambda _: {"model": {1: torch.zeros(1)}}, "x_embedder.proj.weight is missing"),
    "no tensor": (lambda _: {"model": published_weights(**{"x_embedder.proj.bias": [1.0]})}, "no floating-point"),
    "integers": (lambda _: {"model": published_weights(**{"x_embedder.proj.bias": torch.ones(64).int()})}, "no float"),
    "sparse": (lambda _: {"model": published_weights(x=torch.ones(4, 4).to_sparse())}, "x is no floating-point"),
    "meta": (lambda _: {"model": published_weights(x=torch.zeros(10**15, device="meta"))}, "device meta"),
    "strides of 0": (lambda _: {"model": published_weights(x=torch.zeros(1).expand(10**15))}, "larger than what"),
    "one tensor of many names": (
        lambda _: {"model": dict.fromkeys(published_weights(), torch.zeros(10**4))},
        "larger than what the file stores",
    ),
    "empty": (lambda _: {"model": {}}, "not a checkpoint of the published layout"),
    "no actions": (lambda _: {"model": published_weights(**{"external_cond.weight": torch.zeros(4)})}, "layout"),
    "heads of 0": (lambda _: {"model": published_weights(**{"temporal_rotary_emb.freqs": torch.zeros(0)})}, "layout"),
    "a number for frequencies": (
        lambda _: {"model": published_weights(**{"temporal_rotary_emb.freqs": torch.tensor(1.0)})},
        "not a checkpoint of the published layout",
    ),
    "many blocks": (lambda _: {"model": published_weights(**{"blocks.255.x": torch.zeros(1)})}, "missing (blocks.10"),
    "10^9 blocks": (lambda _: {"model": published_weights(**{"blocks.1000000000.x": torch.zeros(1)})}, "num_blocks"),
    "10^5 digits": (lambda _: {"model": published_weights(**{f"blocks.1{'0' * 10**5}.x": torch.zeros(1)})}, ""),
    "an escape": (lambda _: {"model": published_weights(**{"\x1b[31m": torch.zeros(1)})}, "unexpected (\\x1b[31m)"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line_of_error_without_torchs_advice(tmp_path, name, run_script):
    """torch advises to load a file that it refuses with weights_only=False, which runs the code in it."""
    contents, message = HOSTILE[name]
    torch.save(contents(tmp_path / "victim"), tmp_path / "hostile.pt")
    code, _, err = run_script("import_open_oasis", tmp_path / "hostile.pt", tmp_path / "out")
    assert_one_line(code, err, message)
    assert "weights_only" not in err and "\x1b" not in err
    assert not (tmp_path / "out").exists() and not (tmp_path / "victim").exists()
