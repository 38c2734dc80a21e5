"""Attention and rotary embeddings: the fast paths against the plain ones."""

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY, random_inputs, random_model

from dreamrun.model.attention import plain_attention
from dreamrun.model.rotary import apply_rotary_emb, apply_rotary_emb_real, temporal_cos_sin


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
