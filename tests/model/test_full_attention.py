"""Full attention: the CPU's mask against FlexAttention, causality, teacher forcing."""

from dataclasses import replace

import pytest
import torch
from tiny import FULL, make_sampler, random_inputs, random_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

from dreamrun.model import ModelConfig
from dreamrun.model.attention import AttentionInput, block_mask, plain_attention, token_mask
from dreamrun.model.loss import teacher_forcing_mask
from dreamrun.model.rotary import spatial_cos_sin

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["causal", "teacher forcing", "all"])
def test_the_mask_of_the_cpu_equals_flex_attention(kind):
    frame_mask = {
        "causal": torch.ones(4, 4, dtype=torch.bool).tril(),
        "teacher forcing": teacher_forcing_mask(2, CPU)[0],
        "all": torch.ones(4, 4, dtype=torch.bool),
    }[kind]
    q, k, v = torch.randn(3, 2, 4, 4 * 6, 16, generator=torch.Generator().manual_seed(0))
    masked = plain_attention(q, k, v, token_mask(frame_mask, 4, 6, CPU, 16))
    torch.testing.assert_close(flex_attention(q, k, v, block_mask=block_mask(frame_mask, 6)), masked)
    assert (masked - plain_attention(q, k, v)).abs().max() > 0.1 or kind == "all"


def test_a_patch_sees_all_patches_of_its_own_and_earlier_frames():
    """In axial attention a patch of an earlier frame reaches others by way of the spatial half alone."""
    model = random_model(replace(FULL, num_blocks=1))
    frames, levels, actions = random_inputs(model.config, batch=1, num_frames=4)
    changed = frames.clone()
    changed[:, 2, :, :8, :8] += 1  # the first patch of the third frame
    with torch.inference_mode():
        difference = (model(changed, levels, actions) - model(frames, levels, actions)).abs()
    patches = difference.unflatten(-2, (-1, 8)).unflatten(-1, (-1, 8)).amax((2, 4, 6))[0]  # (T, rows, columns)
    assert patches[:2].max() == 0
    assert patches[2:].min() > 1e-4


def test_teacher_forcing_equals_one_frame_at_a_time():
    model = random_model(FULL)
    frames, levels, actions = random_inputs(FULL, num_frames=4)
    clean, clean_levels = torch.rand_like(frames) * 2 - 1, torch.full_like(levels, 0.02)
    mask, positions = teacher_forcing_mask(4, CPU)
    doubled = torch.cat((clean, frames), 1), torch.cat((clean_levels, levels), 1), torch.cat((actions, actions), 1)
    predicted = model(*doubled, mask, positions)[:, 4:]
    pairs = (clean, frames), (clean_levels, levels)
    for t in range(4):
        window = [torch.cat((past[:, :t], new[:, t : t + 1]), 1) for past, new in pairs]
        alone = model(*window, actions[:, : t + 1])[:, t]
        torch.testing.assert_close(predicted[:, t], alone, atol=1e-4, rtol=1e-4)


def test_rows_columns_and_time_are_told_apart():
    """With equal contents everywhere, only the rotary embedding makes patches differ in what they attend to."""
    attention = random_model(FULL).blocks[0].full.attention
    x = torch.randn(1, 3, FULL.num_patches, FULL.dim, generator=torch.Generator().manual_seed(0))
    mask = token_mask(torch.ones(3, 3, dtype=torch.bool), 3, FULL.num_patches, CPU, 16)
    inputs = AttentionInput(spatial_cos_sin(FULL.rotary_dim, FULL.grid), mask)
    out = attention(x, inputs)
    for axis in (1, 2):
        rolled = attention(x.roll(1, axis), inputs).roll(-1, axis)
        assert (rolled - out).abs().max() > 1e-3


def test_heads_too_small_for_three_axes_are_refused():
    with pytest.raises(ValueError, match="a head needs a multiple of 8 numbers"):
        ModelConfig(attention="full", dim=24, num_heads=2)


def test_the_count_of_flops_is_that_of_the_network():
    """Counted by torch: a pass over one frame after a full window."""
    model = random_model(FULL)
    frames, _, actions = random_inputs(FULL, batch=1)
    sampler = make_sampler(model, num_steps=3)
    sampler.reset(frames[:, 1:], actions[:, 1:])
    sampler.step(actions[:, 0])
    # The counter does not know the CPU's fused kernel.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        sampler.step(actions[:, 0])
    assert counter.get_total_flops() == pytest.approx(FULL.flops_per_frame(3, 1.0), rel=0.01)
