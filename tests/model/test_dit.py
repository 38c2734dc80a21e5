"""The network: causality, masks, shapes."""

from dataclasses import replace

import pytest
import torch
from tiny import TINY, random_inputs, random_model

from dreamrun.model import WorldModel
from dreamrun.model.dit import gelu


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


def test_unpatchify_puts_patches_where_patchify_reads_them():
    """`patchify` reads patches row by row."""
    model = random_model()
    frames = random_inputs()[0]
    patch, (rows, columns) = TINY.patch_size, TINY.grid
    as_patches = frames.unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch)).permute(0, 1, 3, 5, 4, 6, 2)
    torch.testing.assert_close(model.unpatchify(as_patches.flatten(2, 3).flatten(3), TINY.grid), frames)


def test_compiled_gelu_is_gelu():
    x = torch.linspace(-9, 9, 500, requires_grad=True)
    outputs = [function(x) for function in (gelu, torch.compile(gelu, backend="aot_eager"))]
    slopes = [torch.autograd.grad(output.sum(), x)[0] for output in outputs]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=1e-5)
