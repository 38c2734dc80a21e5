"""TODO."""

from __future__ import annotations

import copy
import os

import torch

from model.dit import WorldModel
from model.packed import pack
from training.distributed import (
    world_size,
)


def choose_device(wanted: str) -> torch.device:
    """The device to train or dream on, "auto" taking a GPU where there is one.

    Raises:
        ValueError: CUDA asked for and absent, or more processes on this machine than GPUs.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        build = f"torch {torch.__version__} was built without CUDA" if not torch.version.cuda else "no GPU is visible"
        raise ValueError(f"CUDA was asked for, but {build}: use --device cpu, or install another torch build")
    if wanted == "cuda" and world_size() > 1:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"{local_rank + 1} processes or more for {torch.cuda.device_count()} GPUs: start one for each"
            )
        torch.cuda.set_device(local_rank)  # or all ranks would keep something on the first GPU
        return torch.device("cuda", local_rank)
    return torch.device(wanted)


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; where it only emulates it, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, bf16: bool | None = None) -> torch.autocast:
    """bfloat16 autocast; None: if `fast_bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_native_bf16(device) if bf16 is None else bf16)


def prepare_for_inference(
    model: WorldModel, device: torch.device, bf16: bool | None = None, packed: bool = True
) -> WorldModel:
    """A copy of a model to dream with, in eval mode.

    Args:
        bf16: bfloat16 weights; None: if `fast_bf16`.
        packed: on the CPU, weights laid out for its matrix unit (model/packed.py); False: the plain reference.
    """
    fast = has_native_bf16(device) if bf16 is None else bf16
    copied = copy.deepcopy(model).to(device, torch.bfloat16 if fast else torch.float32).eval().requires_grad_(False)
    return pack(copied) if packed and device.type == "cpu" else copied


def describe_device(device: torch.device) -> str:
    """For people: what the work runs on."""
    if device.type == "cuda":
        return f"GPU, {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads (no GPU in use: fit for small models only)"
