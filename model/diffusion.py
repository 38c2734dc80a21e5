"""The noise schedule and the identities between x0, eps and v, one equation per function.

Noise levels u are floats in [0, 1]: 0 is clean, 1 is pure noise. `ab` is alpha_bar, which broadcasts against frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_START, _END = -3.0, 3.0  # range of the sigmoid schedule; its tau is 1


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def alpha_bar(noise_level: Tensor) -> Tensor:
    """Signal power at a noise level, same shape: alpha_bar(0) = 1, alpha_bar(1/2) = 1/2, alpha_bar(1) = 0.

    Sigmoid schedule (arXiv 2212.11972, fig. 8), s = logistic function:
    `alpha_bar(u) = (s(3) - s(6u - 3)) / (s(3) - s(-3))`.
    """
    high, low = _logistic(_END), _logistic(_START)
    s = torch.sigmoid(noise_level.float() * (_END - _START) + _START)
    return ((high - s) / (high - low)).clamp(0.0, 1.0)


def frame_alpha_bar(noise_level: Tensor) -> Tensor:
    """`alpha_bar` of levels (..., T), shaped (..., T, 1, 1, 1) to broadcast against frames (..., T, C, H, W)."""
    return alpha_bar(noise_level)[..., None, None, None]


def add_noise(x0: Tensor, eps: Tensor, ab: Tensor) -> Tensor:
    """`x_u = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps` (DDPM, arXiv 2006.11239, eq. 4)."""
    return ab.sqrt() * x0 + (1 - ab).sqrt() * eps


def v_from_x0_eps(x0: Tensor, eps: Tensor, ab: Tensor) -> Tensor:
    """`v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0` (arXiv 2202.00512, appendix D)."""
    return ab.sqrt() * eps - (1 - ab).sqrt() * x0


def x0_from_v(x_u: Tensor, v: Tensor, ab: Tensor) -> Tensor:
    """`x0 = sqrt(alpha_bar) x_u - sqrt(1 - alpha_bar) v`, for every u."""
    return ab.sqrt() * x_u - (1 - ab).sqrt() * v


def eps_from_x0(x_u: Tensor, x0: Tensor, ab: Tensor) -> Tensor:
    """`eps = (x_u - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar)`, for u > 0."""
    return (x_u - ab.sqrt() * x0) / (1 - ab).sqrt()


def x0_from_prediction(prediction: Tensor, x_u: Tensor, ab: Tensor, kind: str) -> Tensor:
    """x0 from the output of a network that predicts `kind`, "v" or "x0"."""
    return prediction if kind == "x0" else x0_from_v(x_u, prediction, ab)


def ddim_step(x_u: Tensor, x0: Tensor, ab: Tensor, ab_next: Tensor) -> Tensor:
    """One deterministic step from alpha_bar to alpha_bar_next > alpha_bar (DDIM, arXiv 2010.02502, eq. 12, eta 0)."""
    return add_noise(x0, eps_from_x0(x_u, x0, ab), ab_next)
