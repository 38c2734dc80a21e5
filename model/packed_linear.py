"""Inference on the CPU with linear maps whose weights are packed for oneDNN in advance.

By default torch reorders weights for oneDNN in every call. For the 64 tokens of one frame that takes longer than the
matrix product. With packed weights a bfloat16 map takes two thirds of the time. oneDNN also applies GELU in the same
call; on its own GELU is slow.
"""

import torch
from torch import Tensor, nn

from dreamrun.model.attention import Attention
from dreamrun.model.checkpoint import check_finite
from dreamrun.model.dit import AdaLNModulation, FinalLayer, WorldModel
from dreamrun.model.mlp import MLP


class PackedLinear(nn.Module):
    """An `nn.Linear` on the CPU with fixed weights. Results are equal up to rounding.

    Args:
        activation: "none", or "gelu" (tanh approximation) on the result.
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
    """An `MLP` of packed linear maps."""

    def __init__(self, mlp: MLP):
        super().__init__()
        self.fc1, self.fc2 = PackedLinear(mlp.fc1, "gelu"), PackedLinear(mlp.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(self.fc1(x))


def pack(model: WorldModel) -> WorldModel:
    """Pack a model on the CPU in place. It can then generate frames, but be neither trained nor saved."""
    check_finite(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MLP):
                setattr(module, name, PackedMLP(child))
            elif isinstance(child, nn.Linear) and isinstance(module, Attention | FinalLayer | AdaLNModulation):
                setattr(module, name, PackedLinear(child))
    return model
