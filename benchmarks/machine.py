"""The network that a benchmark measures, and time, memory and matrix products of this machine."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dreamrun.data.metadata import read_metadata
from dreamrun.games.ranges import check_ranges
from dreamrun.model import PRESETS, ModelConfig, WorldModel
from dreamrun.training.setup import fit_config_to_data


@dataclass(frozen=True)
class NetworkConfig:
    """Which network to measure."""

    preset: str = "nano"  # network with random weights, as fast as a trained one
    checkpoint: Path | None = None  # measured in place of a preset
    num_steps: int | None = None  # denoising steps per frame; None: the default of the network

    def __post_init__(self):
        check_ranges(self)
        if not self.checkpoint and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}: choose {', '.join(PRESETS)}")

    def load_model(self, data: Path | None = None, **changes: Any) -> WorldModel:
        """The checkpoint, or the preset with `changes` to its config, fitted to a data set."""
        if self.checkpoint:
            return WorldModel.from_pretrained(self.checkpoint)
        config = replace(PRESETS[self.preset], **changes)
        return random_model(config if data is None else fit_config_to_data(config, read_metadata(data)))


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
    return resident_bytes()


def resident_bytes(process: int | str = "self") -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory: on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_secs() -> float:
    """CPU time of this process and of the child processes that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
