"""The device: which one to use, whether bfloat16 is fast on it, and models prepared for inference on it."""

from __future__ import annotations

import copy
import os

import torch

from model.dit import WorldModel
from model.packed_linear import pack
from training.distributed import world_size


def choose_device(name: str) -> torch.device:
    """The device to train or generate on. "auto" is the GPU, or the CPU if there is none.

    Raises:
        ValueError: CUDA was asked for but is not available; or there are more processes on this machine than GPUs.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        reason = "no GPU is visible" if torch.version.cuda else f"torch {torch.__version__} was built without CUDA"
        raise ValueError(f"CUDA was asked for, but {reason}: use --device cpu, or install another build of torch")
    if name == "cuda" and world_size() > 1:
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
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


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
        packed: on the CPU, lay weights out for its matrix unit (model/packed_linear.py); False: the plain reference.
    """
    dtype = torch.bfloat16 if uses_bf16(device, bf16) else torch.float32
    copied = copy.deepcopy(model).to(device, dtype).eval().requires_grad_(False)
    return pack(copied) if packed and device.type == "cpu" else copied


def describe_device(device: torch.device) -> str:
    """The device in words, for people."""
    if device.type == "cuda":
        return f"GPU, {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads (no GPU in use: only small models will be fast enough)"
