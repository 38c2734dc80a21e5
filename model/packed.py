"""Linear maps whose weights lie ready for the CPU's matrix unit.

torch lays weights out anew for oneDNN at every call, which for the 64 tokens of one frame costs more than the product
itself. Packed once, a bfloat16 map takes two thirds of the time, and GELU, slow on its own, is applied on the way out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.attention import Attention
from model.checkpoint import check_finite
from model.dit import MLP, FinalLayer, Modulation, WorldModel


class PackedLinear(nn.Module):
    """An `nn.Linear` with fixed weights on the CPU; the same numbers but for rounding.

    Args:
        activation: "none", or "gelu" (tanh) on the result.
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.activation = activation
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        algorithm = "tanh" if self.activation == "gelu" else ""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], algorithm)


class PackedMLP(nn.Module):
    """An `MLP` of packed maps."""

    def __init__(self, mlp: MLP):
        super().__init__()
        self.fc1, self.fc2 = PackedLinear(mlp.fc1, "gelu"), PackedLinear(mlp.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(self.fc1(x))


def pack(model: WorldModel) -> WorldModel:
    """Pack a model on the CPU, in place; it can then dream, but neither be trained nor saved.

    Raises:
        ValueError: weights that are not finite, which nobody could see any more.
    """
    check_finite(model)
    for module in list(model.modules()):
        if isinstance(module, Attention):
            module.to_qkv, module.to_out = PackedLinear(module.to_qkv), PackedLinear(module.to_out)
        elif isinstance(module, FinalLayer):
            module.linear = PackedLinear(module.linear)
        elif isinstance(module, Modulation):
            module[1] = PackedLinear(module[1])
        for name, child in module.named_children():
            if isinstance(child, MLP):
                setattr(module, name, PackedMLP(child))
    return model
