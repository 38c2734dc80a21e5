"""The device: which one to use, whether bfloat16 is fast on it, and models prepared for inference on it.

By default torch reorders weights for oneDNN in every call on the CPU. For the 64 tokens of one frame that takes longer
than the matrix product. With packed weights a bfloat16 map takes two thirds of the time. oneDNN also applies GELU in
the same call; on its own GELU is slow.
"""

import contextlib
import copy
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamrun.model.attention import Attention
from dreamrun.model.checkpoint import check_finite
from dreamrun.model.dit import MLP, AdaLNModulation, FinalLayer, WorldModel


def choose_device(name: str) -> torch.device:
    """The device to train or generate on. "auto" is the GPU, or the CPU if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        reason = "no GPU is visible" if torch.version.cuda else f"torch {torch.__version__} was built without CUDA"
        raise ValueError(f"CUDA was asked for, but {reason}: use --device cpu, or install another build of torch")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("Apple's GPU (mps) was asked for, but torch finds none: use --device cpu")
    if name == "cuda" and int(os.environ.get("WORLD_SIZE", 1)) > 1:  # torchrun sets both variables
        local_rank, num_gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local_rank >= num_gpus:
            raise ValueError(
                f"at least {local_rank + 1} processes for {num_gpus} GPUs: start one process for each GPU "
                "(--nproc-per-node=gpu)"
            )
        torch.cuda.set_device(local_rank)  # otherwise all ranks would allocate memory on the first GPU
        return torch.device("cuda", local_rank)
    return torch.device(name)


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively. Where it only emulates bfloat16, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_onednn = device.type == "cpu" and torch.backends.mkldnn.is_available()
    return has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def uses_bf16(device: torch.device, bf16: bool | None = None) -> bool:
    """The option `bf16`, where None means: if the device has native bfloat16."""
    return has_native_bf16(device) if bf16 is None else bf16


def autocast(device: torch.device, bf16: bool | None = None) -> torch.autocast:
    """bfloat16 autocast, if `uses_bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(device, bf16))


def prepare_for_inference(
    model: WorldModel, device: torch.device, bf16: bool | None = None, packed: bool = True
) -> WorldModel:
    """A copy of a model on `device`, in eval mode, without gradients.

    Args:
        bf16: convert the weights to bfloat16; None: if the device has native bfloat16.
        packed: on the CPU, pack weights for oneDNN; False: the plain reference.
    """
    dtype = torch.bfloat16 if uses_bf16(device, bf16) else torch.float32
    copied = copy.deepcopy(model).to(device, dtype).eval().requires_grad_(False)
    # oneDNN packs bfloat16 weights only where it can also multiply them.
    packed = packed and device.type == "cpu" and torch.backends.mkldnn.is_available()
    packed = packed and (dtype == torch.float32 or has_native_bf16(device))
    return pack(copied) if packed else copied


class PackedLinear(nn.Module):
    """An `nn.Linear` on the CPU with fixed weights, then "gelu" (tanh) or "none". Results are equal up to rounding."""

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


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still allocate on a device, in its control group too; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = _control_group()
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # there is no limit
        return available
    return min(available, max(0, limit - used + int(stat.get("inactive_file", 0))))


def _control_group() -> Path:
    """The folder of this process's control group (version 2)."""
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/") and (root / line[4:] / "memory.max").is_file():
                return root / line[4:]
    return root


def describe_device(device: torch.device) -> str:
    """The device in words, for people."""
    if device.type == "cuda":
        return f"GPU, {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return "Apple's GPU"
    return f"CPU, {torch.get_num_threads()} threads (no GPU in use: only small models will be fast enough)"
