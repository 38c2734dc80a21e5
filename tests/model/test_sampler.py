import warnings
from dataclasses import replace

import pytest
import torch
from tiny import TINY, make_sampler, random_inputs, random_model

from dreamrun.games.ranges import check_ranges
from dreamrun.model import Sampler, SamplerSettings
from dreamrun.model.inference import pack
from dreamrun.model.options import ResolvedSettings


def rollout(sampler, frames, actions, num_prompt=2):
    """Frames (B, T, ...) generated after the prompt."""
    sampler.reset(frames[:, :num_prompt], actions[:, :num_prompt])
    return torch.stack([sampler.step(action) for action in actions[:, num_prompt:].unbind(1)], dim=1)


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_range_and_shape_of_frames(prediction):
    model = random_model(replace(TINY, prediction=prediction))
    frames, _, actions = random_inputs(num_frames=10)
    generated = rollout(make_sampler(model, num_steps=3), frames, actions)
    assert generated.shape == (2, 8, *TINY.frame_shape) and generated.dtype == torch.float32
    assert generated.abs().max() <= 1 and generated.std() > 0.1


def test_the_rollout_depends_on_the_seed_alone():
    model = random_model()
    frames, _, actions = random_inputs(num_frames=9)
    first, again, other = (rollout(make_sampler(model, 3, seed=seed), frames, actions) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.05


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("age", range(TINY.window_frames))
def test_an_action_has_an_effect_while_its_frame_is_in_the_window(age, cache):
    """The action given `age` frames ago changes the newest frame."""
    model = random_model()
    frames, _, actions = random_inputs(batch=1, num_frames=TINY.window_frames)
    changed = actions.clone()
    changed[:, -1 - age] = changed[:, -1 - age].roll(1, dims=-1)
    # The prompt fills the window, so that only the action itself can make a difference.
    a, b = (rollout(make_sampler(model, 2, cache), frames, given, num_prompt=-1) for given in (actions, changed))
    assert (a - b).abs().max() > 1e-3


def recorded_calls(model):
    """Frames, levels and actions of every forward pass to come."""
    calls, forward = [], model.forward
    model.forward = lambda frames, levels, actions: (
        calls.append((frames, levels, actions)) or forward(frames, levels, actions)
    )
    return calls


def test_the_window_slides_over_frames_and_actions():
    model = random_model()
    frames, _, actions = random_inputs(batch=1, num_frames=14)
    calls = recorded_calls(model)
    rollout(make_sampler(model, 2, cache=False), frames, actions)
    torch.testing.assert_close(calls[-1][2], actions[:, -TINY.window_frames :])
    assert calls[-1][0].shape[1] == TINY.window_frames


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_context_is_noised_to_the_level_passed_to_the_network(level):
    model = random_model()
    calls = recorded_calls(model)
    frames = torch.full((1, 3, *TINY.frame_shape), 0.25)
    sampler = make_sampler(model, 1, context_noise=level, cache=False)
    sampler.reset(frames)
    sampler.step(torch.zeros(1, 3))
    context, levels, _ = calls[0]
    assert levels[0].tolist() == [level, level, level, 1.0]
    if not level:
        torch.testing.assert_close(context[:, :3], frames)
        return
    # alpha_bar(1/2) = 1/2
    noise = (context[:, :3] - 0.5**0.5 * frames) / 0.5**0.5
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05


def test_a_prompt_in_the_range_of_0_to_1_gets_a_warning():
    sampler = make_sampler(random_model(), 2)
    frames = torch.rand(1, 3, *TINY.frame_shape)
    with pytest.warns(UserWarning, match=r"in \[0, 1\].*2 \* frames - 1"):
        sampler.reset(frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.reset(2 * frames - 1)
        sampler.reset(frames[:, :0])


def test_a_prompt_longer_than_the_window_is_cut_with_a_warning():
    model = random_model()
    frames, _, actions = random_inputs(num_frames=9)
    with pytest.warns(UserWarning, match="prompt of 9 frames: only its last 5"):
        long = rollout(make_sampler(model, 2), frames, torch.cat((actions, actions[:, :2]), 1), num_prompt=9)
    short = rollout(make_sampler(model, 2), frames[:, 4:], torch.cat((actions[:, 4:], actions[:, :2]), 1), num_prompt=5)
    torch.testing.assert_close(long, short)


def test_errors_name_the_value():
    model = random_model()
    broken = random_model()
    broken.final_layer.linear.bias.data[3] = float("nan")
    for refuse in (Sampler, pack):
        with pytest.raises(ValueError, match=r"weights are not finite: final_layer.linear.bias"):
            refuse(broken)
    sampler = make_sampler(model)
    with pytest.raises(ValueError, match="step before reset"):
        sampler.step(torch.zeros(1, 3))
    for shape in ((1, 2, 1, 64, 64), (0, 1, *TINY.frame_shape), TINY.frame_shape):
        with pytest.raises(ValueError, match="prompt of shape"):
            sampler.reset(torch.zeros(shape))
    with pytest.raises(ValueError, match="frame_height is 20: it must be a multiple of patch_size, 8"):
        sampler.reset(torch.zeros(1, 2, 3, 20, 24))
    with pytest.raises(ValueError, match="prompt actions of shape"):
        sampler.reset(torch.zeros(1, 2, *TINY.frame_shape), torch.zeros(1, 2, 4))
    sampler.reset(torch.zeros(1, 2, *TINY.frame_shape))
    with pytest.raises(ValueError, match=r"actions of shape \(1, 5\)"):
        sampler.step(torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"step before reset: give slots \[3\] a prompt"):
        sampler.step(torch.zeros(1, 3), slots=[3])
    for frames in (
        torch.zeros(1, 2, *TINY.frame_shape, dtype=torch.uint8),
        torch.full((1, 2, *TINY.frame_shape), 255.0),
    ):
        with pytest.raises(ValueError, match="no floats in"):
            sampler.reset(frames)
    assert sampler.slots == [0]  # as before
    sampler.reset(torch.full((1, 2, *TINY.frame_shape), 1.005).to(torch.bfloat16))  # as resizing makes them


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"num_steps": 2.0}, "num_steps is 2.0: expected an integer from 1"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"context_noise": 1.0}, "context_noise is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"text": "\n"}, "text"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**settings)


def test_settings_take_the_defaults_of_a_checkpoint():
    config = replace(TINY, num_steps=3, guidance=1.5)
    assert SamplerSettings().resolve(config) == ResolvedSettings(3, 1.5)
    given = SamplerSettings(num_steps=2, guidance=1.0, seed=7, text="a fish")
    assert given.resolve(config) == ResolvedSettings(2, 1.0, seed=7, text="a fish")
    assert given.resolve(config).to_dict("words")["words"] == "a fish"
    check_ranges(SamplerSettings(num_steps=32), in_play=True)
    with pytest.raises(ValueError, match="from 1 to 32"):
        check_ranges(SamplerSettings(num_steps=33), in_play=True)


@pytest.mark.parametrize("window", [TINY.window_frames, 2])
def test_a_rollout_can_begin_without_a_prompt(window):
    """The cache and the reference agree from the first frame on."""
    model = random_model(replace(TINY, window_frames=window))
    _, _, actions = random_inputs(batch=2, num_frames=window)
    no_frames = torch.zeros(2, 0, *TINY.frame_shape)
    rollouts = [
        rollout(make_sampler(model, 3, cache=cache), no_frames, actions, num_prompt=0) for cache in (True, False)
    ]
    assert rollouts[0].shape == (2, window, *TINY.frame_shape)
    torch.testing.assert_close(*rollouts, atol=1e-4, rtol=0)
    assert (rollouts[0][0] - rollouts[0][1]).abs().max() > 0.05  # each has its own noise
    black = rollout(make_sampler(model, 3), torch.zeros(2, 1, *TINY.frame_shape), actions, num_prompt=1)
    assert (black[:, 0] - rollouts[0][:, 1]).abs().max() > 1e-3


def test_rollouts_with_and_without_a_prompt_share_a_batch():
    model = random_model()
    frames, _, actions = random_inputs(batch=2, num_frames=5)
    alone = rollout(make_sampler(model, 2), frames[:1, :0], actions[:1], num_prompt=0)
    for cache in (True, False):
        sampler = make_sampler(model, 2, cache=cache)
        sampler.reset(frames[1:], slots=[1])
        sampler.reset(frames[:1, :0], slots=[0])
        together = torch.stack([sampler.step(actions[:, t])[0] for t in range(5)])
        torch.testing.assert_close(together, alone[0], atol=1e-4, rtol=0)


def test_guidance_moves_away_from_the_zero_action():
    """Guidance has no effect for the zero action, and is linear in the scale for others."""
    model = random_model(replace(TINY, prediction="x0"))
    frames, _, actions = random_inputs(batch=1, num_frames=3)

    def newest(guidance, action, cache):
        sampler = make_sampler(model, 1, guidance=guidance, cache=cache)
        sampler.reset(frames, actions)
        return sampler.step(action)

    for cache in (False, True):
        cond, uncond = newest(1.0, actions[:, 0], cache), newest(0.0, actions[:, 0], cache)
        inside = (cond.abs() < 1) & (uncond.abs() < 1)  # where nothing was clamped
        assert inside.float().mean() > 0.3 and (cond - uncond)[inside].abs().max() > 0.1
        for guidance in (0.5, 1.5):
            expected = (uncond + guidance * (cond - uncond)).clamp(-1, 1)
            actual = newest(guidance, actions[:, 0], cache)
            torch.testing.assert_close(actual[inside], expected[inside], atol=1e-5, rtol=0)
        zero = torch.zeros(1, 3)
        torch.testing.assert_close(newest(3.0, zero, cache), newest(1.0, zero, cache), atol=1e-5, rtol=0)

    model.config = replace(model.config, guidance=1.5)  # the default of a checkpoint
    torch.testing.assert_close(newest(None, actions[:, 0], True), newest(1.5, actions[:, 0], True), rtol=0, atol=0)
