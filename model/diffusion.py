"""The noise schedules and the identities between x0, eps, v and velocity, one equation per function.

Noise levels u are floats in [0, 1]: 0 is clean, 1 is pure noise. A noisy frame is `x_u = alpha x0 + sigma eps`.
Alpha and sigma broadcast against frames.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Schedule = Literal["sigmoid", "linear"]
Prediction = Literal["v", "x0", "velocity"]

CONTEXT_NOISE = 0.02  # noise level of the frames that new frames attend to, unless another is chosen
_START, _END = -3.0, 3.0  # range of the sigmoid schedule; its tau is 1


class AlphaSigma(NamedTuple):
    """Factors of signal and noise at a noise level."""

    alpha: Tensor
    sigma: Tensor


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def alpha_bar(noise_level: Tensor) -> Tensor:
    """Signal power of the sigmoid schedule, same shape: alpha_bar(0) = 1, alpha_bar(1/2) = 1/2, alpha_bar(1) = 0.

    arXiv 2212.11972, fig. 8, with s = logistic function: `alpha_bar(u) = (s(3) - s(6u - 3)) / (s(3) - s(-3))`.
    """
    high, low = _logistic(_END), _logistic(_START)
    s = torch.sigmoid(noise_level.float() * (_END - _START) + _START)
    return ((high - s) / (high - low)).clamp(0.0, 1.0)


def alpha_sigma(noise_level: Tensor, schedule: Schedule) -> AlphaSigma:
    """Alpha and sigma at a noise level, of the same shape.

    "sigmoid" preserves the variance: `alpha = sqrt(alpha_bar)`, `sigma = sqrt(1 - alpha_bar)`.
    "linear" is the straight line of rectified flow (arXiv 2209.03003): `alpha = 1 - u`, `sigma = u`.
    """
    if schedule == "linear":
        return AlphaSigma(1.0 - noise_level.float(), noise_level.float())
    ab = alpha_bar(noise_level)
    return AlphaSigma(ab.sqrt(), (1 - ab).sqrt())


def frame_alpha_sigma(noise_level: Tensor, schedule: Schedule) -> AlphaSigma:
    """`alpha_sigma` of levels (..., T), shaped (..., T, 1, 1, 1) to broadcast against frames (..., T, C, H, W)."""
    return alpha_sigma(noise_level[..., None, None, None], schedule)


def add_noise(x0: Tensor, eps: Tensor, level: AlphaSigma) -> Tensor:
    """`x_u = alpha x0 + sigma eps` (DDPM, arXiv 2006.11239, eq. 4, in terms of alpha and sigma)."""
    return level.alpha * x0 + level.sigma * eps


def eps_from_x0(x_u: Tensor, x0: Tensor, level: AlphaSigma) -> Tensor:
    """`eps = (x_u - alpha x0) / sigma`, for u > 0."""
    return (x_u - level.alpha * x0) / level.sigma


def target(x0: Tensor, eps: Tensor, level: AlphaSigma, kind: Prediction) -> Tensor:
    """What a network that predicts `kind` should put out.

    "v": `v = alpha eps - sigma x0` (arXiv 2202.00512, appendix D), for the sigmoid schedule.
    "velocity": `eps - x0`, the derivative of x_u by u (arXiv 2209.03003, eq. 1), for the linear schedule.
    """
    if kind == "v":
        return level.alpha * eps - level.sigma * x0
    return eps - x0 if kind == "velocity" else x0


def x0_from_prediction(prediction: Tensor, x_u: Tensor, level: AlphaSigma, kind: Prediction) -> Tensor:
    """x0 from the output of a network that predicts `kind`, for every u.

    "v": `x0 = alpha x_u - sigma v`, as `alpha^2 + sigma^2 = 1`.
    "velocity": `x0 = x_u - sigma velocity`, as `alpha + sigma = 1`.
    """
    if kind == "v":
        return level.alpha * x_u - level.sigma * prediction
    return x_u - level.sigma * prediction if kind == "velocity" else prediction


def ddim_step(x_u: Tensor, x0: Tensor, level: AlphaSigma, next_level: AlphaSigma) -> Tensor:
    """One deterministic step to a lower noise level (DDIM, arXiv 2010.02502, eq. 12, eta 0).

    On the linear schedule this is a step of Euler's method along the velocity `eps - x0`.
    """
    return add_noise(x0, eps_from_x0(x_u, x0, level), next_level)


def noise_levels(num_steps: int, start: float = 1.0) -> Tensor:
    """`num_steps + 1` evenly spaced levels from `start` to 0, float32 on the CPU."""
    return torch.linspace(start, 0.0, num_steps + 1)


def denoise(
    x_u: Tensor,
    predict: Callable[[Tensor, int, bool], Tensor],
    scales: Sequence[AlphaSigma],
    kind: Prediction,
    guidance: float = 1.0,
) -> Tensor:
    """Noisy frames -> clean frames by DDIM, with classifier-free guidance (arXiv 2207.12598).

    `x0 = x0_uncond + guidance (x0_cond - x0_uncond)`, clamped to [-1, 1]. Without guidance, 1, there is no
    unconditional pass.

    Args:
        x_u: frames at the first noise level.
        predict: the network: (x_u, step, conditional) -> its output, with the action and the text, or without both.
        scales: alpha and sigma of each level; the last one is 0, where x_u is x0.
        kind: what the network predicts.
    """
    for step, (level, next_level) in enumerate(pairwise(scales)):
        x0 = x0_from_prediction(predict(x_u, step, True), x_u, level, kind)
        if guidance != 1.0:
            x0_uncond = x0_from_prediction(predict(x_u, step, False), x_u, level, kind)
            x0 = x0_uncond.lerp(x0, guidance)
        x_u = ddim_step(x_u, x0.clamp(-1.0, 1.0), level, next_level)
    return x_u
