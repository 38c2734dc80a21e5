"""Measure time, memory and matrix products on this machine, and make a network to measure."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dreamrun.model import ModelConfig, WorldModel


def random_model(config: ModelConfig) -> WorldModel:
    """A network with random weights, as fast as a trained one. The zeros of an untrained network would be faster."""
    torch.manual_seed(0)
    model = WorldModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model


def measure_ms(function: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Milliseconds that a call takes, including its work on the device."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000.0 * (time.perf_counter() - start)


def matmul_flops_per_sec(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of ten."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = min(measure_ms(lambda: a @ b, device) for _ in range(10))
    return 1000.0 * 2.0 * size**3 / best


def memory_bytes(device: torch.device) -> int:
    """Memory in use: on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory: on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
