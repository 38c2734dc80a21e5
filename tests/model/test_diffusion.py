import math

import pytest
import torch

from model import ModelConfig, Sampler, WorldModel
from model.diffusion import (
    add_noise,
    alpha_bar,
    ddim_step,
    eps_from_x0,
    frame_alpha_bar,
    v_from_x0_eps,
    x0_from_prediction,
    x0_from_v,
)
from model.dit import timestep

LEVELS = torch.cat((torch.linspace(0, 1, 41), torch.tensor([1e-3, 0.999])))


def random_x0_eps(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, count, 1, 3, 4, 4, generator=generator).double()


def test_alpha_bar_is_the_sigmoid_schedule():
    def s(x):
        return 1 / (1 + math.exp(-x))

    expected = [(s(3) - s(6 * u - 3)) / (s(3) - s(-3)) for u in LEVELS.tolist()]
    torch.testing.assert_close(alpha_bar(LEVELS), torch.tensor(expected), atol=1e-6, rtol=0)
    assert alpha_bar(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)
    assert (alpha_bar(torch.linspace(0, 1, 1000)).diff() < 0).all()


def test_integer_timesteps_are_thousandths():
    k = torch.arange(1000)
    torch.testing.assert_close(timestep((k + 1) / 1000), k.float(), atol=1e-4, rtol=0)


def test_v_identities_hold_at_every_level():
    x0, eps = random_x0_eps(len(LEVELS))
    ab = frame_alpha_bar(LEVELS)[:, None].double()
    x_u, v = add_noise(x0, eps, ab), v_from_x0_eps(x0, eps, ab)
    torch.testing.assert_close(x0_from_v(x_u, v, ab), x0)
    torch.testing.assert_close(x0_from_prediction(v, x_u, ab, "v"), x0)
    torch.testing.assert_close(x0_from_prediction(x0, x_u, ab, "x0"), x0)


def test_eps_from_x0_inverts_add_noise():
    x0, eps = random_x0_eps(len(LEVELS))
    ab = frame_alpha_bar(LEVELS)[:, None].double()
    noisy = ab[:, 0, 0, 0, 0] < 1
    torch.testing.assert_close(eps_from_x0(add_noise(x0, eps, ab), x0, ab)[noisy], eps[noisy], atol=1e-5, rtol=1e-5)


def test_a_ddim_step_moves_along_the_same_x0_and_eps():
    x0, eps = random_x0_eps(1)
    ab, ab_next = alpha_bar(torch.tensor(0.8)).double(), alpha_bar(torch.tensor(0.3)).double()
    torch.testing.assert_close(ddim_step(add_noise(x0, eps, ab), x0, ab, ab_next), add_noise(x0, eps, ab_next))


class Oracle(WorldModel):
    """Predicts one fixed frame, as v or x0, from any noisy frame."""

    truth: torch.Tensor

    def forward_cached(self, frames, modulations, cache):
        return self.truth.expand_as(frames)

    def forward(self, frames, noise_level, actions, temporal_mask=None):
        if self.config.prediction == "x0":
            return self.truth.expand_as(frames)
        ab = frame_alpha_bar(noise_level)
        eps = eps_from_x0(frames, self.truth, ab)
        return v_from_x0_eps(self.truth, eps, ab)


@pytest.mark.parametrize(("prediction", "cache"), [("v", False), ("x0", False), ("x0", True)])
@pytest.mark.parametrize("num_steps", [1, 4, 10])
def test_ddim_with_an_oracle_recovers_x0(prediction, cache, num_steps):
    config = ModelConfig(
        frame_height=8, frame_width=8, dim=16, num_blocks=1, num_heads=2, window_frames=3, num_actions=2,
        prediction=prediction,
    )  # fmt: skip
    oracle = Oracle(config).eval()
    oracle.truth = torch.rand(1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    sampler = Sampler(oracle, num_steps=num_steps, cache=cache)
    sampler.reset(torch.zeros(2, 1, 3, 8, 8))
    for _ in range(4):
        frame = sampler.step(torch.zeros(2, 2))
        torch.testing.assert_close(frame, oracle.truth[:, 0].expand_as(frame), atol=2e-5, rtol=0)
