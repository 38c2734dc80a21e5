"""Frames of other sizes than the one that a network was made for."""

from dataclasses import replace

import pytest
import torch
from tiny import FULL, TINY, make_sampler, random_inputs, random_model

from dreamrun.model import WorldModel
from dreamrun.model.options import SamplerSettings
from dreamrun.model.rotary import SpatialTables, spatial_cos_sin

LARGER = {"frame_height": 24, "frame_width": 40}


@pytest.mark.parametrize("config", [TINY, FULL])
def test_a_network_takes_frames_of_any_size_as_one_made_for_it_does(config):
    model, made_for_it = random_model(config), WorldModel(replace(config, **LARGER)).eval()
    made_for_it.load_state_dict(model.state_dict())
    inputs = random_inputs(made_for_it.config)
    assert torch.equal(model(*inputs), made_for_it(*inputs))
    small = random_inputs(config)
    assert model(*small).shape == small[0].shape


@pytest.mark.parametrize("cache", [True, False])
def test_a_sampler_has_the_size_of_its_prompt(cache):
    model, made_for_it = random_model(), WorldModel(replace(TINY, **LARGER)).eval()
    made_for_it.load_state_dict(model.state_dict())
    frames, _, actions = random_inputs(made_for_it.config, num_frames=3)
    sampler, expected = make_sampler(model, 2, cache=cache), make_sampler(made_for_it, 2, cache=cache)
    for number in range(8):  # past the window
        if number == 0:
            sampler.reset(torch.zeros(1, 1, *TINY.frame_shape))
            sampler.step(actions[:1, 0])
            sampler.reset(frames, actions)
            expected.reset(frames, actions)
        assert torch.equal(sampler.step(actions[:, number % 3]), expected.step(actions[:, number % 3]))
    sampler.reset(frames[:1], slots=[1])
    with pytest.raises(ValueError, match="prompt of shape"):  # beside rollouts of another size
        sampler.reset(torch.zeros(1, 1, *TINY.frame_shape), slots=[1])
    sampler.rebuild(settings=SamplerSettings(num_steps=1))
    assert sampler.step(actions[:, 0]).shape == frames[:, 0].shape


def test_tables_of_places_serve_training_after_a_rollout():
    tables = SpatialTables(8)
    with torch.inference_mode():
        table = tables((3, 5), torch.device("cpu"))
    assert not table.is_inference() and table is tables((3, 5), torch.device("cpu"))
    assert torch.equal(table, spatial_cos_sin(8, (3, 5)))


def test_an_outcome_head_knows_one_size_alone():
    sampler = make_sampler(random_model(replace(TINY, outcomes=True)))
    actions = torch.zeros(1, TINY.num_actions)
    for size in ((24, 40), TINY.frame_shape[1:]):
        sampler.reset(torch.zeros(1, 1, 3, *size))
        if size == (24, 40):
            with pytest.raises(ValueError, match="no outcome head for frames of 40x24"):
                sampler.outcome(actions)
        else:
            assert sampler.outcome(actions).reward.shape == (1,)
        assert sampler.step(actions).shape == (1, 3, *size)
