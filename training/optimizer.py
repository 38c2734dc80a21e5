"""AdamW; Muon for the matrices inside the blocks with AdamW for the rest; the learning rate schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamrun.model.dit import WorldModel
from dreamrun.training.train_config import ResolvedConfig

BETAS = (0.9, 0.99)  # of AdamW
MOMENTUM = 0.95  # of Muon
# Coefficients of a quintic polynomial. Applied five times, it moves singular values towards 1 (Jordan, "Muon", 2024).
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5
ADAMW_RMS = 0.2  # typical RMS of an AdamW update; Muon's updates are scaled to it (arXiv 2502.16982, section 2.2)


def make_optimizer(model: WorldModel, name: str, learning_rate: float, weight_decay: float) -> AdamW | MuonAndAdamW:
    """Make the optimizer `name`, "adamw" or "muon".

    Both skip a step if the flag `optimizer.found_inf`, a scalar on the device, is 1. They do not wait for the device.
    An outcome head alone has no matrices for Muon.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "adamw" or len(trained) < len(list(model.parameters())):
        return AdamW(trained, learning_rate, weight_decay)
    return MuonAndAdamW(model, learning_rate, weight_decay)


def optimizer_name(state_dict: dict) -> str:
    """The name of the optimizer that a state is of."""
    return "muon" if "muon" in state_dict else "adamw"


def learning_rate(config: ResolvedConfig, step: int, max_steps: int) -> float:
    """Linear warm-up from 0, then constant, then linear decay to 0 at `max_steps` (arXiv 2405.18392)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_steps = max(1.0, config.decay_fraction * max_steps)
    return config.learning_rate * min(warmup, (max_steps - step) / decay_steps, 1.0)


class AdamW(torch.optim.AdamW):
    """Fused AdamW (arXiv 1711.05101)."""

    found_inf: Tensor | None = None  # scalar on the device; 1: skip the step. torch.amp.GradScaler sets it likewise.

    def __init__(self, parameters: Sequence[Tensor], lr: float, weight_decay: float):
        super().__init__(parameters, lr=lr, betas=BETAS, weight_decay=weight_decay, fused=True)


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum, whose update matrix is orthogonalized (Jordan, 2024; arXiv 2502.16982).

    Matrices of one shape are processed as one batch. On a GPU this saves most of the kernel launches. (torch.optim.Muon
    takes 1.4 times as long for 16 matrices of width 128 on a CPU, and cannot skip a step without waiting for a GPU.)
    """

    found_inf: Tensor | None = None  # scalar; 1: skip the step, so that weights and momentum stay as they are

    def __init__(self, matrices: Sequence[Tensor], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        for matrix in matrices:
            self.state[matrix]["momentum"] = torch.zeros_like(matrix)

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """Update the weights from their gradients."""
        for group in self.param_groups:
            for shape in {matrix.shape for matrix in group["params"]}:
                same_shape = [matrix for matrix in group["params"] if matrix.shape == shape]
                self._step(same_shape, group["lr"], group["weight_decay"])

    def _step(self, matrices: list[Tensor], learning_rate: float, weight_decay: float) -> None:
        momenta = [self.state[matrix]["momentum"] for matrix in matrices]
        momentum, gradient = torch.stack(momenta), torch.stack([matrix.grad for matrix in matrices])  # type: ignore[misc]
        lr = torch.full((), learning_rate, device=gradient.device)
        if self.found_inf is not None:
            gradient = torch.where(self.found_inf > 0, momentum, gradient)
            lr = lr * (1 - self.found_inf)
        momentum.lerp_(gradient, 1 - MOMENTUM)
        torch._foreach_copy_(momenta, list(momentum.unbind()))
        update = newton_schulz(gradient.lerp(momentum, MOMENTUM)) * (ADAMW_RMS * max(gradient.shape[1:]) ** 0.5)
        weights = torch.stack(matrices)
        torch._foreach_copy_(matrices, list((weights * (1 - lr * weight_decay) - lr * update).unbind()))


def newton_schulz(matrices: Tensor) -> Tensor:
    """Orthogonalize matrices (N, R, C): `U S V^T` -> approximately `U V^T`, by Newton-Schulz iteration in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).type_as(matrices)


class MuonAndAdamW:
    """Muon for the attention and MLP matrices of a model, AdamW for embeddings, modulations, biases and the output."""

    def __init__(self, model: WorldModel, learning_rate: float, weight_decay: float):
        matrices = [
            parameter
            for name, parameter in model.blocks.named_parameters()
            if parameter.ndim == 2 and "modulation" not in name
        ]
        muon_ids = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in model.parameters() if id(parameter) not in muon_ids]
        self.muon = Muon(matrices, learning_rate, weight_decay)
        self.adamw = AdamW(others, learning_rate, weight_decay)

    @property
    def param_groups(self) -> list[dict]:
        """The parameter groups of both optimizers."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @property
    def found_inf(self) -> Tensor | None:
        """The flag that makes both skip a step."""
        return self.muon.found_inf

    @found_inf.setter
    def found_inf(self, flag: Tensor | None) -> None:
        self.muon.found_inf = self.adamw.found_inf = flag

    def step(self) -> None:
        """Update all weights."""
        self.muon.step()
        self.adamw.step()

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.muon.zero_grad()
        self.adamw.zero_grad()

    def state_dict(self) -> dict:
        """The states of both, by name."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict`."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
