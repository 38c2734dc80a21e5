"""The MLP of a block."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrun.model.activation_checkpoint import selective_checkpoint


def gelu(x: Tensor) -> Tensor:
    """`x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (arXiv 1606.08415, section 2)."""
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        # (1 + tanh z) / 2 = sigmoid(2 z), whose compiled code is faster than that of tanh.
        wide = x.float()
        return (wide * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))).type_as(x)
    return F.gelu(x, approximate="tanh")


class MLP(nn.Module):
    """D -> 4 D -> GELU (tanh) -> D."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return selective_checkpoint(self._gelu_fc2, self.fc1(x))

    def _gelu_fc2(self, hidden: Tensor) -> Tensor:
        return self.fc2(gelu(hidden))
