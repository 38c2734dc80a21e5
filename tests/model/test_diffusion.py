import math

import pytest
import torch
from tiny import make_sampler

from dreamrun.model import ModelConfig, WorldModel
from dreamrun.model.diffusion import (
    AlphaSigma,
    add_noise,
    alpha_bar,
    alpha_sigma,
    ddim_step,
    eps_from_x0,
    frame_alpha_sigma,
    target,
    x0_from_prediction,
)
from dreamrun.model.dit import timestep

LEVELS = torch.cat((torch.linspace(0, 1, 41), torch.tensor([1e-3, 0.999])))


def random_x0_eps(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, count, 1, 3, 4, 4, generator=generator).double()


def test_the_schedules_are_a_sigmoid_and_a_straight_line():
    def s(x):
        return 1 / (1 + math.exp(-x))

    expected = [(s(3) - s(6 * u - 3)) / (s(3) - s(-3)) for u in LEVELS.tolist()]
    torch.testing.assert_close(alpha_bar(LEVELS), torch.tensor(expected), atol=1e-6, rtol=0)
    assert alpha_bar(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)
    assert (alpha_bar(torch.linspace(0, 1, 1000)).diff() < 0).all()
    alpha, sigma = alpha_sigma(LEVELS, "linear")
    assert torch.equal(alpha, 1 - LEVELS) and torch.equal(sigma, LEVELS)


def test_integer_timesteps_are_thousandths():
    k = torch.arange(1000)
    torch.testing.assert_close(timestep((k + 1) / 1000), k.float(), atol=1e-4, rtol=0)


def double(level):
    return AlphaSigma(*(factor.double() for factor in level))


def levels(schedule):
    return double(frame_alpha_sigma(LEVELS[:, None], schedule))


@pytest.mark.parametrize(("schedule", "kind"), [("sigmoid", "v"), ("linear", "velocity")])
def test_identities_hold_at_every_level(schedule, kind):
    x0, eps = random_x0_eps(len(LEVELS))
    level = levels(schedule)
    x_u = add_noise(x0, eps, level)
    torch.testing.assert_close(x0_from_prediction(target(x0, eps, level, kind), x_u, level, kind), x0)
    torch.testing.assert_close(x0_from_prediction(target(x0, eps, level, "x0"), x_u, level, "x0"), x0)
    noisy = level.sigma.flatten() > 0
    torch.testing.assert_close(eps_from_x0(x_u, x0, level)[noisy], eps[noisy], atol=1e-5, rtol=1e-5)


def test_v_and_velocity_are_what_the_papers_say():
    x0, eps = random_x0_eps(len(LEVELS))
    alpha, sigma = level = levels("sigmoid")
    torch.testing.assert_close(target(x0, eps, level, "v"), alpha * eps - sigma * x0)

    # The velocity is the derivative of the noisy frame by the noise level.
    def noisy(u):
        return add_noise(x0, eps, double(frame_alpha_sigma(u[:, None], "linear")))

    middle = LEVELS.double().clamp(0.01, 0.99)
    slope = (noisy(middle + 0.01) - noisy(middle - 0.01)) / 0.02
    velocity = target(x0, eps, levels("linear"), "velocity")
    torch.testing.assert_close(slope, velocity, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_a_ddim_step_moves_along_the_same_x0_and_eps(schedule):
    x0, eps = random_x0_eps(1)
    level, next_level = (double(alpha_sigma(torch.tensor(u), schedule)) for u in (0.8, 0.3))
    stepped = ddim_step(add_noise(x0, eps, level), x0, level, next_level)
    torch.testing.assert_close(stepped, add_noise(x0, eps, next_level))


def test_ddim_on_the_straight_line_is_euler():
    (x_u, x0), u, u_next = random_x0_eps(1), 0.8, 0.3
    level, next_level = (double(alpha_sigma(torch.tensor(u), "linear")) for u in (u, u_next))
    velocity = (x_u - x0) / u
    torch.testing.assert_close(ddim_step(x_u, x0, level, next_level), x_u + (u_next - u) * velocity)


class Oracle(WorldModel):
    """Predicts one fixed frame, as v, velocity or x0, from any noisy frame."""

    truth: torch.Tensor

    def forward_cached(self, frames, modulations, cache):
        return self.truth.expand_as(frames)

    def forward(self, frames, noise_level, actions, temporal_mask=None):
        level = frame_alpha_sigma(noise_level, self.config.schedule)
        return target(self.truth, eps_from_x0(frames, self.truth, level), level, self.config.prediction)


@pytest.mark.parametrize(
    ("schedule", "prediction", "cache"),
    [
        ("sigmoid", "v", False),
        ("sigmoid", "x0", False),
        ("sigmoid", "x0", True),
        ("linear", "velocity", False),
        ("linear", "x0", False),
        ("linear", "x0", True),
    ],
)
@pytest.mark.parametrize("num_steps", [1, 4, 10])
def test_ddim_with_an_oracle_recovers_x0(schedule, prediction, cache, num_steps):
    config = ModelConfig(
        frame_height=8, frame_width=8, dim=16, num_blocks=1, num_heads=2, window_frames=3, num_actions=2,
        schedule=schedule, prediction=prediction,
    )  # fmt: skip
    oracle = Oracle(config).eval()
    oracle.truth = torch.rand(1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    sampler = make_sampler(oracle, num_steps=num_steps, cache=cache)
    sampler.reset(torch.zeros(2, 1, 3, 8, 8))
    for _ in range(4):
        frame = sampler.step(torch.zeros(2, 2))
        torch.testing.assert_close(frame, oracle.truth[:, 0].expand_as(frame), atol=2e-5, rtol=0)
