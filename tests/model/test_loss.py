"""The diffusion loss and its noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TINY, random_inputs, random_model

from dreamrun.model import ModelConfig, WorldModel
from dreamrun.model.diffusion import add_noise, frame_alpha_sigma, x0_from_prediction
from dreamrun.model.loss import (
    MAX_CONTEXT_NOISE_LEVEL,
    Corruption,
    LevelDistribution,
    causal_corruption,
    diffusion_loss,
    draw_noise,
    validation_corruption,
)

CPU = torch.device("cpu")


def corrupt(shape, seeds, with_context=False):
    """Uniform levels, each frame attends to those before it."""
    noise = draw_noise(shape, seeds, CPU, with_context)
    return causal_corruption(noise, noise.level_uniform)


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_loss_falls_on_one_clip(prediction):
    """One clip of 16x16 pixels under ten noises: small enough to memorize."""
    config = ModelConfig(
        frame_height=16, frame_width=16, dim=32, num_blocks=1, num_heads=2, window_frames=4, num_actions=3,
        prediction=prediction,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WorldModel(config)
    frames, _, actions = random_inputs(config, batch=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(150):
        noise = corrupt(frames.shape, np.array([step % 10]))
        loss = diffusion_loss(model, config, frames, actions, noise)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])


def test_v_and_x0_networks_have_the_same_loss():
    """The x0 that a v network implies has the same loss as the v, where the x0 loss is not clamped."""
    frames, _, actions = random_inputs()
    levels = torch.linspace(0.1, 1.0, 12).view(2, 6)
    eps = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    noise = Corruption(levels, eps)
    v_model = random_model()
    loss_v, x0, _ = diffusion_loss(v_model, v_model.config, frames, actions, noise)
    x0_config = replace(v_model.config, prediction="x0")
    loss_x0 = diffusion_loss(lambda *_: x0, x0_config, frames, actions, noise).losses
    torch.testing.assert_close(loss_x0, loss_v, rtol=1e-3, atol=1e-4)
    assert loss_v.shape == (2, 6)


def test_teacher_forcing_predicts_each_frame_from_a_clean_context():
    """One forward pass over both copies of a clip equals one pass for each frame over the clean frames before it."""
    frames, _, actions = random_inputs()
    model, noise = random_model(), corrupt(frames.shape, np.arange(2), with_context=True)
    context_levels, context_eps = noise.context_levels, noise.context_eps
    assert context_levels.max() < MAX_CONTEXT_NOISE_LEVEL and not torch.equal(context_eps, noise.eps)
    x0_hat = diffusion_loss(model, model.config, frames, actions, noise).x0
    clean = add_noise(frames, context_eps, frame_alpha_sigma(context_levels, "sigmoid"))
    noisy = add_noise(frames, noise.eps, frame_alpha_sigma(noise.levels, "sigmoid"))
    for t in range(frames.shape[1]):
        x_u = torch.cat((clean[:, :t], noisy[:, t : t + 1]), dim=1)
        levels = torch.cat((context_levels[:, :t], noise.levels[:, t : t + 1]), dim=1)
        prediction = model(x_u, levels, actions[:, : t + 1])[:, -1]
        level = frame_alpha_sigma(noise.levels[:, t], "sigmoid")
        expected = x0_from_prediction(prediction, noisy[:, t], level, "v")
        torch.testing.assert_close(x0_hat[:, t], expected, rtol=1e-4, atol=1e-4)


def test_teacher_forcing_uses_context_frames_only_as_context():
    frames, _, actions = random_inputs()
    noise = corrupt(frames.shape, np.arange(2), with_context=True)
    inputs = []

    def network(x_u, *rest):
        inputs.append(x_u)
        return x_u

    for context_frames in (frames, torch.zeros_like(frames)):
        diffusion_loss(network, TINY, frames, actions, replace(noise, context_frames=context_frames))
    context, noisy = inputs[0].chunk(2, dim=1)
    other_context, same_noisy = inputs[1].chunk(2, dim=1)
    assert torch.equal(noisy, same_noisy) and (context - other_context).abs().mean() > 0.3


def test_loss_under_context_frames_compares_with_x0():
    frames, _, actions = random_inputs()
    noise = corrupt(frames.shape, np.arange(2))
    config = replace(TINY, prediction="x0")
    for corruption in (noise, replace(noise, context_frames=torch.zeros_like(frames))):
        assert diffusion_loss(lambda *_: frames, config, frames, actions, corruption).losses.max() == 0
    v_model = random_model()
    same, with_context = (
        diffusion_loss(v_model, v_model.config, frames, actions, corruption).losses
        for corruption in (noise, replace(noise, context_frames=frames.clone()))
    )
    high = noise.levels > 0.1
    torch.testing.assert_close(with_context[high], same[high], rtol=1e-3, atol=1e-4)


def test_noise_of_a_clip_depends_only_on_its_seed():
    shape, seeds = torch.Size((3, 2, 3, 8, 8)), np.array([5, 2**64 - 1, 7], np.uint64)
    noise, reverse = draw_noise(shape, seeds, CPU), draw_noise(shape, seeds[::-1], CPU)
    for name in ("eps", "level_uniform", "clip_uniform"):
        assert torch.equal(getattr(noise, name), getattr(reverse, name).flip(0))
    uniform = torch.cat((noise.level_uniform.flatten(), noise.clip_uniform))
    assert len(noise.eps.unique()) > 1100 and len(uniform.unique()) == 9


def test_noise_levels_have_their_distribution():
    uniform = torch.linspace(0, 1, 100_001)[:-1]
    assert torch.equal(LevelDistribution().levels(uniform), uniform)
    logits = torch.special.logit(LevelDistribution(logit_normal=True).levels(uniform).double())
    assert abs(logits.mean()) < 0.01 and abs(logits.std() - 1) < 0.01
    high = LevelDistribution(shifted=True).levels(uniform)
    assert high[25_000] == 0.5 and high[0] == 0 and 0.9999 < high[-1] < 1 and (high.diff() > 0).all()


def test_validation_has_uniform_levels_behind_a_nearly_clean_context():
    shape, seeds = torch.Size((2, 4, 3, 8, 8)), np.arange(2)
    corruption, noise = validation_corruption(shape, seeds, CPU), draw_noise(shape, seeds, CPU, with_context=True)
    assert torch.equal(corruption.levels, noise.level_uniform) and torch.equal(corruption.eps, noise.eps)
    assert corruption.context_levels.shape == (2, 4) and corruption.context_levels.max() < MAX_CONTEXT_NOISE_LEVEL
