"""What users give to a sampler and to a model: nonsense is a ValueError that says what is wrong."""

import numpy as np
import pytest
import torch
from tiny import TINY, random_inputs, random_model

from dreamrun.model import Sampler
from dreamrun.model.checkpoint import load_weights

FRAMES = torch.zeros(1, 2, *TINY.frame_shape)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (FRAMES.to(torch.uint8), "prompt of torch.uint8: expected floats in"),
        (FRAMES.to(torch.complex64), "prompt of torch.complex64"),
        (FRAMES + 255, "pixels run from 255 to 255: expected floats in"),
        (FRAMES - 2, "pixels run from -2 to -2"),
        (FRAMES * float("nan"), "pixels run from nan to nan"),
        (FRAMES.numpy(), "the prompt is ndarray: expected a torch.Tensor"),
        (None, "the prompt is NoneType"),
    ],
)
def test_prompts(frames, message):
    sampler = Sampler(random_model(), 1)
    with pytest.raises(ValueError, match=message):
        sampler.reset(frames)
    assert sampler.slots == []


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (torch.full((1, 3), float("nan")), "actions are not finite real numbers"),
        (torch.full((1, 3), float("inf")), "actions are not finite real numbers"),
        (torch.zeros(1, 3, dtype=torch.complex64), "actions are not finite real numbers"),
        (np.zeros((1, 3), np.float32), "actions are ndarray: expected a torch.Tensor"),
        ([0, 1, 0], "actions are list"),
        (torch.zeros(()), "actions of shape"),
    ],
)
def test_actions(actions, message):
    sampler = Sampler(random_model(), 1)
    sampler.reset(FRAMES)
    with pytest.raises(ValueError, match=message):
        sampler.step(actions)
    if isinstance(actions, torch.Tensor) and actions.ndim:
        with pytest.raises(ValueError, match="not finite"):
            sampler.reset(FRAMES, actions[:, None].expand(1, 2, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"guidance": 1e300}, "guidance is 1e\\+300"),
        ({"context_noise": float("nan")}, "context_noise is nan"),
        ({"num_steps": 10**9}, "num_steps is 1000000000"),
        ({"num_steps": 2.0}, "num_steps is 2.0"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampler(random_model(), **settings)


def test_slots_and_seeds():
    sampler = Sampler(random_model(), 1)
    for options, message in (
        ({"slots": [10**9]}, "from 0 to 4095"),
        ({"slots": [0.5]}, "expected integers"),
        ({"seeds": [2**70]}, "seed is"),
        ({"seeds": ["1"]}, "seed is '1'"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.reset(FRAMES, **options)
    sampler.reset(FRAMES, slots=[np.int64(1)], seeds=[np.int64(2)])
    assert sampler.slots == [1]


def test_frames_of_resizing_are_accepted():
    """A little above 1, as interpolation and bfloat16 make them."""
    frames, _, actions = random_inputs(num_frames=2)
    Sampler(random_model(), 1).reset((frames * 1.005).to(torch.bfloat16), actions.bool())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(dtype):
    model = random_model()
    weights = {name: weight.to(dtype) for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"weights of here do not fit: \d+ not floating-point"):
        load_weights(model, weights, "here")
