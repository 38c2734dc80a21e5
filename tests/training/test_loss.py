"""The diffusion loss, its noise, and scheduled sampling."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TINY, random_inputs, random_model

from dreamrun.model import ModelConfig, WorldModel
from dreamrun.model.diffusion import add_noise, frame_alpha_sigma, x0_from_prediction
from dreamrun.training.loss import (
    MAX_CONTEXT_NOISE_LEVEL,
    SCHEDULED_SAMPLING_PASSES,
    Noise,
    apply_scheduled_sampling,
    diffusion_loss,
    draw_noise,
    drop_actions,
    to_noise_levels,
    validation_noise,
)


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
        noise = draw_noise(frames.shape, np.array([step % 10]), torch.device("cpu"))
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
    noise = Noise(levels, eps, clip_uniform=torch.zeros(2), level_uniform=levels)
    v_model = random_model()
    loss_v, x0 = diffusion_loss(v_model, v_model.config, frames, actions, noise)
    x0_config = replace(v_model.config, prediction="x0")
    loss_x0, _ = diffusion_loss(lambda *_: x0, x0_config, frames, actions, noise)
    torch.testing.assert_close(loss_x0, loss_v, rtol=1e-3, atol=1e-4)
    assert loss_v.shape == (2, 6)


@pytest.mark.parametrize("kind", ["uniform", "teacher-forcing"])
def test_scheduled_sampling_predicts_frames_from_predicted_context(kind):
    frames, _, actions = random_inputs(batch=24)
    noise = draw_noise(frames.shape, np.arange(24), torch.device("cpu"), kind)
    config, given_levels, contexts = replace(TINY, prediction="x0"), [], []

    def predict_lighter_grey(x_u, levels, actions, *attention):
        given_levels.append(levels[:, -frames.shape[1] :])
        contexts.append(x_u[:, : frames.shape[1]])
        return torch.full_like(x_u, 0.1 * len(given_levels))

    assert apply_scheduled_sampling(predict_lighter_grey, config, frames, actions, noise, kind, 0.0) is frames
    result = apply_scheduled_sampling(predict_lighter_grey, config, frames, actions, noise, kind, 0.75)
    assert len(given_levels) == SCHEDULED_SAMPLING_PASSES
    for number, grey in enumerate([0.0, 0.1, 0.2, 0.3]):  # below a quarter: no pass; below a half: one pass; and so on
        chosen = (noise.clip_uniform >= 0.25 * number) & (noise.clip_uniform < 0.25 * (number + 1))
        assert 0 < chosen.sum() < 24
        if number == 0:
            assert torch.equal(result[chosen], frames[chosen])
        else:
            assert abs(result[chosen] - grey).max() < 1 / 255
    chosen = noise.clip_uniform >= 0.25
    expected = to_noise_levels((noise.level_uniform[chosen] + 0.25) % 1, kind)
    assert torch.equal(given_levels[0], expected) and (expected - noise.levels[chosen]).abs().min() > 0.01
    if kind == "teacher-forcing":  # the context of the second pass is the prediction of the first
        chosen = noise.clip_uniform >= 0.5
        context_levels, context_eps = noise.context_levels[chosen], noise.context_eps[chosen]
        predicted = torch.full_like(context_eps, 0.1)
        expected = add_noise(predicted, context_eps, frame_alpha_sigma(context_levels, "sigmoid"))
        torch.testing.assert_close(contexts[1], expected, atol=1 / 255, rtol=0)


def test_teacher_forcing_predicts_each_frame_from_a_clean_context():
    """One forward pass over both copies of a clip equals one pass for each frame over the clean frames before it."""
    frames, _, actions = random_inputs()
    model, cpu = random_model(), torch.device("cpu")
    noise = draw_noise(frames.shape, np.arange(2), cpu, "teacher-forcing")
    context_levels, context_eps = noise.context_levels, noise.context_eps
    assert context_levels.max() < MAX_CONTEXT_NOISE_LEVEL and not torch.equal(context_eps, noise.eps)
    _, x0_hat = diffusion_loss(model, model.config, frames, actions, noise)
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
    noise = draw_noise(frames.shape, np.arange(2), torch.device("cpu"), "teacher-forcing")
    inputs = []

    def network(x_u, *rest):
        inputs.append(x_u)
        return x_u

    for context_frames in (frames, torch.zeros_like(frames)):
        diffusion_loss(network, TINY, frames, actions, noise, context_frames)
    context, noisy = inputs[0].chunk(2, dim=1)
    other_context, same_noisy = inputs[1].chunk(2, dim=1)
    assert torch.equal(noisy, same_noisy) and (context - other_context).abs().mean() > 0.3


def test_loss_under_context_frames_compares_with_x0():
    frames, _, actions = random_inputs()
    noise = draw_noise(frames.shape, np.arange(2), torch.device("cpu"))
    config = replace(TINY, prediction="x0")
    loss, _ = diffusion_loss(lambda *_: frames, config, frames, actions, noise, context_frames=torch.zeros_like(frames))
    assert loss.max() == 0
    v_model = random_model()
    same, _ = diffusion_loss(v_model, v_model.config, frames, actions, noise)
    with_context, _ = diffusion_loss(v_model, v_model.config, frames, actions, noise, context_frames=frames)
    high = noise.levels > 0.1
    torch.testing.assert_close(with_context[high], same[high], rtol=1e-3, atol=1e-4)


def test_perfect_prediction_has_no_loss():
    frames, _, actions = random_inputs()
    noise = draw_noise(frames.shape, np.arange(2), torch.device("cpu"))
    config = replace(random_model().config, prediction="x0")
    assert diffusion_loss(lambda *_: frames, config, frames, actions, noise)[0].max() == 0


def test_noise_of_a_clip_depends_only_on_its_seed():
    shape, seeds, cpu = torch.Size((3, 2, 3, 8, 8)), np.array([5, 2**64 - 1, 7], np.uint64), torch.device("cpu")
    noise, reverse = draw_noise(shape, seeds, cpu), draw_noise(shape, seeds[::-1], cpu)
    assert torch.equal(noise.eps, reverse.eps.flip(0))
    assert torch.equal(noise.levels, reverse.levels.flip(0))
    assert torch.equal(noise.clip_uniform, reverse.clip_uniform.flip(0))
    assert len(noise.eps.unique()) > 1100 and len(torch.cat((noise.levels.flatten(), noise.clip_uniform)).unique()) == 9


def test_noise_levels_have_their_distribution():
    uniform = torch.linspace(0, 1, 100_001)[:-1]
    assert torch.equal(to_noise_levels(uniform, "uniform"), uniform)
    logits = torch.special.logit(to_noise_levels(uniform, "logit-normal").double())
    assert abs(logits.mean()) < 0.01 and abs(logits.std() - 1) < 0.01
    high = to_noise_levels(uniform, "teacher-forcing")
    assert high[25_000] == 0.5 and high[0] == 0 and 0.9999 < high[-1] < 1 and (high.diff() > 0).all()


def test_validation_noise_does_not_depend_on_training():
    shape, seeds = torch.Size((2, 4, 3, 8, 8)), np.arange(2)
    noise, training = (draw(shape, seeds, torch.device("cpu")) for draw in (validation_noise, draw_noise))
    assert torch.equal(noise.levels, noise.level_uniform) and torch.equal(noise.clip_uniform, training.clip_uniform)
    assert noise.context_levels.shape == noise.levels.shape and noise.context_levels.max() < MAX_CONTEXT_NOISE_LEVEL


def test_actions_are_dropped_clip_by_clip():
    actions = torch.ones(4000, 3, 2)
    dropped = drop_actions(actions, 0.1, torch.rand(4000, generator=torch.Generator().manual_seed(0)))
    hidden = dropped.sum((1, 2)) == 0
    assert 0.08 < hidden.float().mean() < 0.12
    assert (dropped[~hidden] == 1).all()
