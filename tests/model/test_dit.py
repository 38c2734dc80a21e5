import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny import TINY, assert_one_line, command, random_inputs, random_model

from model import PRESETS, GameInfo, ModelConfig, WorldModel, dit
from model.attention import plain_attention
from model.rotary import apply_rotary_emb, apply_rotary_emb_real, temporal_cos_sin

PARITY = Path(__file__).parents[1] / "parity"


@pytest.mark.parametrize(("preset", "millions"), [("pico", 2.51), ("nano", 9.83), ("small", 57.82), ("base", 119.74)])
def test_parameter_counts_of_the_presets(preset, millions):
    model = WorldModel(PRESETS[preset])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


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
def test_wrappers_prefixes_are_stripped(tmp_path, monkeypatch, capsys, prefix):
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


def test_import_refuses_what_is_not_a_checkpoint(tmp_path, monkeypatch, capsys):
    (tmp_path / "text.pt").write_text("hello")
    for source, word in ((tmp_path / "text.pt", "not a checkpoint"), (tmp_path / "absent.pt", "no file")):
        code, _, err = command(monkeypatch, capsys, "scripts.import_open_oasis", source, tmp_path / "out")
        assert_one_line(code, err, word)
        assert not (tmp_path / "out").exists()


def test_a_fresh_network_puts_out_zero():
    with torch.no_grad():
        assert WorldModel(TINY)(*random_inputs()).abs().max() == 0


@pytest.mark.parametrize("t", range(TINY.window_frames))
@pytest.mark.parametrize("changed", ["frame", "noise_level", "action"])
def test_nothing_before_a_change_knows_of_it(t, changed):
    model = random_model()
    inputs = dict(zip(("frame", "noise_level", "action"), random_inputs(), strict=True))
    with torch.no_grad():
        before = model(*inputs.values())
        inputs[changed] = inputs[changed].clone()
        inputs[changed][:, t] = 1 - inputs[changed][:, t]
        after = model(*inputs.values())
    difference = (after - before).abs().amax(dim=(0, 2, 3, 4))
    assert (difference[:t] == 0).all()
    assert (difference[t:] > 1e-4).all()


def test_a_mask_replaces_causality():
    model, (frames, levels, actions) = random_model(), random_inputs(num_frames=5)
    band = torch.ones(5, 5, dtype=torch.bool).tril().triu(-1)  # this frame and the one before
    with torch.no_grad():
        banded = model(frames, levels, actions, temporal_mask=band)
        causal = model(frames, levels, actions)
    torch.testing.assert_close(banded[:, :2], causal[:, :2])
    assert (banded[:, 2:] - causal[:, 2:]).abs().max() > 1e-3


def test_frames_of_other_shapes_and_channels():
    config = replace(TINY, frame_height=32, frame_width=8, num_channels=1, patch_size=4)
    out = random_model(config)(*random_inputs(config))
    assert out.shape == (2, 6, 1, 32, 8) and out.dtype == torch.float32


def test_patches_come_back_where_they_were():
    """patchify() reads patches row by row; unpatchify() must lay them out the same way."""
    model = random_model()
    frames = random_inputs()[0]
    patch, (rows, columns) = TINY.patch_size, TINY.grid
    as_patches = frames.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch)).permute(0, 1, 3, 5, 4, 6, 2)
    torch.testing.assert_close(model.unpatchify(as_patches.flatten(2, 3).flatten(3)), frames)


@pytest.mark.parametrize("looks", ["everywhere", "masked", "causal"])
def test_plain_attention_equals_the_fused_kernel(looks):
    q, k, v = torch.randn(3, 2, 4, 7, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(7, 7, dtype=torch.bool).tril() if looks == "masked" else None
    causal = looks == "causal"
    fused = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    torch.testing.assert_close(plain_attention(q, k, v, mask, is_causal=causal), fused)


def test_training_and_inference_paths_agree():
    model, inputs = random_model(), random_inputs()
    with torch.inference_mode():
        quick = model(*inputs)
    torch.testing.assert_close(model(*inputs).detach(), quick, atol=1e-5, rtol=1e-5)


def test_rotary_tables_stay_float32():
    model = random_model().to(torch.bfloat16)
    table = model.blocks[0].temporal.attention.rotary
    assert table.cos_sin.dtype == torch.float32
    torch.testing.assert_close(table.cos_sin, temporal_cos_sin(TINY.head_dim, TINY.window_frames), atol=0, rtol=0)
    assert model(*random_inputs()).dtype == torch.float32


def test_save_and_load(tmp_path):
    game = GameInfo(
        environment="pong",
        environment_options=(("simple", True),),
        action_names=("noop", "up", "down"),
        action_keys=((), ("UP",), ("DOWN",)),
        acting_actions=(0, 1, 2),
        fps=12.0,
    )
    model = random_model(TINY, game=game)
    model.save_pretrained(tmp_path)
    plain = json.loads((tmp_path / "game.json").read_text())
    assert plain["environment"] == "pong" and plain["fps"] == 12.0 and plain["action_keys"] == [[], ["UP"], ["DOWN"]]
    loaded = WorldModel.from_pretrained(tmp_path)
    assert (loaded.config, loaded.game) == (TINY, game) and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_loading_is_strict_and_says_what_is_wrong(tmp_path):
    random_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in weights.items() if "fc1.bias" not in n}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"4 missing \(blocks.0.spatial.mlp.fc1.bias"):
        WorldModel.from_pretrained(tmp_path)
    save_file({**weights, "extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 unexpected \(extra\)"):
        WorldModel.from_pretrained(tmp_path)
    save_file({**weights, "final_layer.linear.bias": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 of another shape \(final_layer.linear.bias\)"):
        WorldModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("config.json", "{", "is not the config of a world model"),
        ("config.json", "[1]", "is not the config of a world model"),
        ("config.json", '{"vocabulary": 5}', "unknown model settings: vocabulary"),
        ("config.json", '{"dim": "wide"}', "is not the config of a world model"),
        ("model.safetensors", "garbage", "is damaged"),
    ],
)
def test_what_is_not_a_checkpoint(tmp_path, file, content, message):
    random_model().save_pretrained(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        WorldModel.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        WorldModel.from_pretrained(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_height": 20}, "multiple of patch_size"),
        ({"frame_width": 0}, "multiple of patch_size"),
        ({"num_heads": 3}, "multiple of 4"),
        ({"prediction": "eps"}, '"v" or "x0"'),
        ({"window_frames": 0}, "at least 1"),
    ],
)
def test_bad_configs(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_config_survives_json():
    config = replace(TINY, prediction="x0")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    game = GameInfo(environment_options=(("simple", False),), action_keys=(("LEFT", "UP"),) * 15)
    assert GameInfo.from_dict(json.loads(json.dumps(game.to_dict()))) == game


def test_a_game_that_does_not_fit_the_network(tmp_path):
    random_model(game=GameInfo(action_names=("a", "b"))).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="2 action names for num_actions 3"):
        WorldModel.from_pretrained(tmp_path)


def test_an_old_config_holds_the_game_too(tmp_path):
    game = GameInfo(environment="pong", action_names=("stay", "up", "down"), fps=12.0)
    random_model(game=game).save_pretrained(tmp_path)
    (tmp_path / "game.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict() | game.to_dict()))
    loaded = WorldModel.from_pretrained(tmp_path)
    assert (loaded.config, loaded.game) == (TINY, game)


def gradients(model, config):
    """Of a loss that depends on everything."""
    frames, levels, actions = random_inputs(config)
    model.zero_grad()
    model(frames, levels, actions).square().mean().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def kept_bytes(model):
    """What is kept of the blocks for the backward pass, weights aside."""
    weights, kept = {weight.untyped_storage().data_ptr() for weight in model.parameters()}, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(*random_inputs())
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for address, size in sizes.items() if address not in weights)


@pytest.mark.parametrize("how", ["blocks", "cheap"])
def test_recomputation_saves_memory_and_changes_no_gradient(monkeypatch, how):
    model = random_model()
    plain, plain_bytes = gradients(model, TINY), kept_bytes(model)
    if how == "blocks":
        model.activation_checkpointing = True
    else:  # as on a GPU
        monkeypatch.setattr(dit, "selective_checkpoint", dit.activation_checkpoint)
    again = gradients(model, TINY)
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)
    assert kept_bytes(model) < (0.3 if how == "blocks" else 0.8) * plain_bytes


def test_compiled_recomputed_gradients_are_the_plain_ones():
    model = random_model()
    plain = gradients(model, TINY)
    model.activation_checkpointing = True
    for block in model.blocks:
        block.compile(backend="aot_eager")  # planned as torch.compile does, without its slow code generation
    again = gradients(model, TINY)
    largest = max(gradient.abs().max() for gradient in plain.values())
    assert max((plain[name] - again[name]).abs().max() for name in plain) < 1e-4 * largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_complex_rotation_equals_the_real_one(dtype):
    x = torch.randn(2, 5, 3, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    turns = temporal_cos_sin(16, 5)[:, None]
    real = apply_rotary_emb_real(x.float().unflatten(-1, (-1, 2)), turns).flatten(-2).to(dtype)
    torch.testing.assert_close(apply_rotary_emb(x, turns), real)
    assert (apply_rotary_emb(x, turns) - x).abs().max() > 0.1 and apply_rotary_emb(x, turns).dtype == dtype
