"""The network: causality, masks, shapes; attention and rotary embeddings against the plain ones."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import FULL, TINY, random_inputs, random_model

from dreamrun.model import WorldModel
from dreamrun.model.attention import plain_attention
from dreamrun.model.dit import gelu
from dreamrun.model.loss import teacher_forcing_mask
from dreamrun.model.rotary import apply_rotary_emb, apply_rotary_emb_real, temporal_cos_sin


def test_an_untrained_network_outputs_zero():
    with torch.no_grad():
        assert WorldModel(TINY)(*random_inputs()).abs().max() == 0


@pytest.mark.parametrize("t", range(TINY.window_frames))
@pytest.mark.parametrize("changed", ["frame", "noise_level", "action"])
def test_a_change_does_not_affect_earlier_frames(t, changed):
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


def test_a_mask_replaces_the_causal_one():
    model, (frames, levels, actions) = random_model(), random_inputs(num_frames=5)
    band = torch.ones(5, 5, dtype=torch.bool).tril().triu(-1)  # this frame and the one before
    with torch.no_grad():
        banded = model(frames, levels, actions, temporal_mask=band)
        causal = model(frames, levels, actions)
    torch.testing.assert_close(banded[:, :2], causal[:, :2])
    assert (banded[:, 2:] - causal[:, 2:]).abs().max() > 1e-3


def test_other_frame_sizes_and_channels():
    config = replace(TINY, frame_height=32, frame_width=8, num_channels=1, patch_size=4)
    out = random_model(config)(*random_inputs(config))
    assert out.shape == (2, 6, 1, 32, 8) and out.dtype == torch.float32


def test_compiled_gelu_is_gelu():
    x = torch.linspace(-9, 9, 500, requires_grad=True)
    outputs = [function(x) for function in (gelu, torch.compile(gelu, backend="aot_eager"))]
    slopes = [torch.autograd.grad(output.sum(), x)[0] for output in outputs]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "masked", "causal"])
def test_plain_attention_equals_the_fused_kernel(kind):
    q, k, v = torch.randn(3, 2, 4, 7, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(7, 7, dtype=torch.bool).tril() if kind == "masked" else None
    causal = kind == "causal"
    fused = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    torch.testing.assert_close(plain_attention(q, k, v, mask, causal), fused)


def test_training_and_inference_paths_agree():
    model, inputs = random_model(), random_inputs()
    with torch.inference_mode():
        fused = model(*inputs)
    torch.testing.assert_close(model(*inputs).detach(), fused, atol=1e-5, rtol=1e-5)


def test_rotary_tables_stay_float32():
    model = random_model().to(torch.bfloat16)
    table = model.blocks[0].temporal.attention.rotary
    assert table.cos_sin.dtype == torch.float32
    torch.testing.assert_close(table.cos_sin, temporal_cos_sin(TINY.head_dim, TINY.window_frames), atol=0, rtol=0)
    assert model(*random_inputs()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_complex_rotation_equals_the_real_one(dtype):
    x = torch.randn(2, 5, 3, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    cos_sin = temporal_cos_sin(16, 5)[:, None]
    real = apply_rotary_emb_real(x.float().unflatten(-1, (-1, 2)), cos_sin).flatten(-2).to(dtype)
    torch.testing.assert_close(apply_rotary_emb(x, cos_sin), real)
    assert (apply_rotary_emb(x, cos_sin) - x).abs().max() > 0.1 and apply_rotary_emb(x, cos_sin).dtype == dtype


@pytest.mark.parametrize(
    ("config", "kind"),
    [(TINY, "causal"), (TINY, "teacher forcing"), (FULL, "causal")],
    ids=["axial", "teacher", "full"],
)
def test_the_network_is_one_graph_without_breaks(config, kind):
    model = random_model(replace(config, num_blocks=1))
    mask = ("causal",) if kind == "causal" else teacher_forcing_mask(2, torch.device("cpu"))
    inputs = *random_inputs(config, num_frames=4), *mask
    expected = model(*inputs)  # the first pass makes the rotary table of this frame size
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # raises an error at a break
    torch.testing.assert_close(compiled(*inputs), expected, atol=1e-5, rtol=1e-4)
