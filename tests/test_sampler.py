from dataclasses import replace

import pytest
import torch
from tiny import TINY, random_inputs, random_model

from model import Sampler


def rollout(sampler, frames, actions, num_prompt=2):
    """(B, T, ...) frames dreamt after the prompt."""
    sampler.reset(frames[:, :num_prompt], actions[:, :num_prompt])
    return torch.stack([sampler.step(action) for action in actions[:, num_prompt:].unbind(1)], dim=1)


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_frames_are_in_range_and_of_the_right_shape(prediction):
    model = random_model(replace(TINY, prediction=prediction))
    frames, _, actions = random_inputs(num_frames=10)
    dreamt = rollout(Sampler(model, num_steps=3), frames, actions)
    assert dreamt.shape == (2, 8, *TINY.frame_shape) and dreamt.dtype == torch.float32
    assert dreamt.abs().max() <= 1 and dreamt.std() > 0.1


def test_the_same_seed_gives_the_same_dream_and_another_does_not():
    model = random_model()
    frames, _, actions = random_inputs(num_frames=9)
    first, again, other = (rollout(Sampler(model, 3, seed=seed), frames, actions) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.05


def test_dreams_side_by_side_do_not_touch_each_other():
    model = random_model()
    frames, _, actions = random_inputs(batch=3, num_frames=9)
    together = rollout(Sampler(model, 3, seed=7), frames, actions)
    for i in range(3):
        alone = rollout(Sampler(model, 3, seed=7 + i), frames[i : i + 1], actions[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("age", range(TINY.window_frames))
def test_an_action_is_remembered_as_long_as_its_frame_is_in_the_window(age):
    """Also after the window has slid: the action given `age` frames ago changes the newest frame."""
    model = random_model()
    frames, _, actions = random_inputs(batch=1, num_frames=14)
    sampler, changed_sampler = Sampler(model, 2), Sampler(model, 2)
    rollout(sampler, frames, actions)
    rollout(changed_sampler, frames, actions)
    assert sampler._actions.shape[1] == TINY.window_frames - 1
    if age == 0:
        given = [torch.eye(3)[[0]], torch.eye(3)[[1]]]
    else:
        with torch.inference_mode():
            changed_sampler._actions[:, -age] = 1 - changed_sampler._actions[:, -age]
        given = [torch.eye(3)[[0]]] * 2
    a, b = sampler.step(given[0]), changed_sampler.step(given[1])
    assert (a - b).abs().max() > 1e-3


def test_the_window_slides_over_frames_and_their_own_actions():
    model = random_model()
    frames, _, actions = random_inputs(batch=1, num_frames=14)
    sampler = Sampler(model, 2)
    rollout(sampler, frames, actions)
    torch.testing.assert_close(sampler._actions, actions[:, -(TINY.window_frames - 1) :])


def test_context_is_really_noised_to_the_level_that_the_network_is_told():
    seen = []
    model = random_model()
    forward = model.forward
    model.forward = lambda frames, levels, actions: seen.append((frames, levels)) or forward(frames, levels, actions)
    frames = torch.full((1, 3, *TINY.frame_shape), 0.25)
    sampler = Sampler(model, 1, context_noise=0.5)
    sampler.reset(frames)
    sampler.step(torch.zeros(1, 3))
    given, levels = seen[0]
    assert levels[0].tolist() == [0.5, 0.5, 0.5, 1.0]
    # alpha_bar(1/2) = 1/2
    noise = (given[:, :3] - 0.5**0.5 * frames) / 0.5**0.5
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05


def test_without_context_noise_the_context_is_untouched():
    frames, _, actions = random_inputs(batch=1, num_frames=3)
    sampler = Sampler(random_model(), 1, context_noise=0.0)
    sampler.reset(frames, actions)
    torch.testing.assert_close(sampler._frames, frames)


def test_a_prompt_longer_than_the_window_keeps_its_end_and_says_so():
    model = random_model()
    frames, _, actions = random_inputs(num_frames=9)
    with pytest.warns(UserWarning, match="prompt of 9 frames: only its last 5"):
        long = rollout(Sampler(model, 2), frames, torch.cat((actions, actions[:, :2]), 1), num_prompt=9)
    short = rollout(Sampler(model, 2), frames[:, 4:], torch.cat((actions[:, 4:], actions[:, :2]), 1), num_prompt=5)
    torch.testing.assert_close(long, short)


def test_mistakes_are_said_clearly():
    model = random_model()
    with pytest.raises(ValueError, match="num_steps is 0"):
        Sampler(model, num_steps=0)
    with pytest.raises(ValueError, match="context_noise is 1"):
        Sampler(model, context_noise=1.0)
    sampler = Sampler(model)
    with pytest.raises(ValueError, match="step before reset"):
        sampler.step(torch.zeros(1, 3))
    for shape in ((1, 2, 3, 64, 64), (1, 0, *TINY.frame_shape), (0, 1, *TINY.frame_shape), TINY.frame_shape):
        with pytest.raises(ValueError, match="prompt of shape"):
            sampler.reset(torch.zeros(shape))
    with pytest.raises(ValueError, match="prompt actions of shape"):
        sampler.reset(torch.zeros(1, 2, *TINY.frame_shape), torch.zeros(1, 2, 4))
    sampler.reset(torch.zeros(1, 2, *TINY.frame_shape))
    with pytest.raises(ValueError, match=r"actions of shape \(1, 5\)"):
        sampler.step(torch.zeros(1, 5))
