"""The optimizers: AdamW, or Muon for the matrices inside the blocks and AdamW for all else."""

from __future__ import annotations

import torch
from torch import Tensor

from model.dit import WorldModel

BETAS = (0.9, 0.99)  # of AdamW
MOMENTUM = 0.95  # of Muon
# Coefficients of the quintic that five times over drives singular values towards 1 (Jordan, "Muon", 2024).
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5
ADAMW_RMS = 0.2  # of an update of AdamW, roughly, which Muon's is scaled to (arXiv 2502.16982, section 2.2)


def make_optimizer(
    model: WorldModel, name: str, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW | MuonAndAdamW:
    """By name, "adamw" or "muon". Both skip a step by a flag on the device, `optimizer.found_inf`, without a wait."""
    if name == "adamw":
        return _adamw(list(model.parameters()), learning_rate, weight_decay)
    return MuonAndAdamW(model, learning_rate, weight_decay)


def _adamw(parameters: list[Tensor], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=BETAS, weight_decay=weight_decay, fused=True)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix has all its singular values brought to 1 (Jordan, 2024; arXiv 2502.16982).

    Matrices of one shape are worked on as one batch, which on a GPU saves most of the launches.

    Args:
        matrices: (rows, columns) each.
    """

    found_inf: Tensor | None = None  # 1.0: leave weights and momentum as they are

    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        for matrix in matrices:
            self.state[matrix]["momentum"] = torch.zeros_like(matrix)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Update the weights from their gradients."""
        for group in self.param_groups:
            for shape in {matrix.shape for matrix in group["params"]}:
                alike = [matrix for matrix in group["params"] if matrix.shape == shape]
                self._step(alike, group["lr"], group["weight_decay"])

    def _step(self, matrices: list[Tensor], learning_rate: float, weight_decay: float) -> None:
        momenta = [self.state[matrix]["momentum"] for matrix in matrices]
        momentum, gradient = torch.stack(momenta), torch.stack([matrix.grad for matrix in matrices])
        rate = torch.full((), learning_rate, device=gradient.device)
        if self.found_inf is not None:
            gradient = torch.where(self.found_inf > 0, momentum, gradient)
            rate = rate * (1 - self.found_inf)
        momentum.lerp_(gradient, 1 - MOMENTUM)
        torch._foreach_copy_(momenta, list(momentum.unbind()))
        update = newton_schulz(gradient.lerp(momentum, MOMENTUM)) * (ADAMW_RMS * max(gradient.shape[1:]) ** 0.5)
        weights = torch.stack(matrices)
        torch._foreach_copy_(matrices, list((weights * (1 - rate * weight_decay) - rate * update).unbind()))


def newton_schulz(matrices: Tensor) -> Tensor:
    """(N, R, C) -> about `U V^T` of each one's singular value decomposition `U S V^T`, by Newton-Schulz in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).type_as(matrices)


class MuonAndAdamW:
    """Muon for the attention and MLP matrices of a model, AdamW for embeddings, modulations, biases and the output."""

    def __init__(self, model: WorldModel, learning_rate: float, weight_decay: float):
        inside = {
            name: parameter
            for name, parameter in model.blocks.named_parameters()
            if parameter.ndim == 2 and "modulation" not in name
        }
        kept = {id(parameter) for parameter in inside.values()}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in kept]
        self.parts = (
            Muon(list(inside.values()), learning_rate, weight_decay),
            _adamw(rest, learning_rate, weight_decay),
        )

    @property
    def param_groups(self) -> list[dict]:
        """Of both."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def found_inf(self) -> Tensor | None:
        """The flag by which both skip a step."""
        return self.parts[0].found_inf

    @found_inf.setter
    def found_inf(self, flag: Tensor | None) -> None:
        for part in self.parts:
            part.found_inf = flag

    def step(self) -> None:
        """Update all weights."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> dict:
        """Of both, by name."""
        return dict(zip(("muon", "adamw"), (part.state_dict() for part in self.parts), strict=True))

    def load_state_dict(self, state: dict) -> None:
        """The inverse of `state_dict`."""
        for name, part in zip(("muon", "adamw"), self.parts, strict=True):
            part.load_state_dict(state[name])
