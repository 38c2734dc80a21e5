"""Rank, world size, what ranks tell each other, and the device of this process, as torchrun sets them.

In a process that stands alone everything here works as if it were the only rank.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO

import torch
import torch.distributed as dist
from torch import Tensor

from model.dit import WorldModel
from model.packed import pack

LAST_WORD_SECS = 5.0  # torchrun ends all ranks when one has ended; so long the others leave rank 0 to say why
MISTAKE = 2  # exit code, as in cli.py


def rank() -> int:
    """This process's number among all, 0 when alone."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def say(message: str, file: TextIO | None = None) -> None:
    """Print, once over all ranks."""
    if rank() == 0:
        print(message, file=file)


def num_restarts() -> int:
    """How often torchrun has started this run again, after a rank failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other ranks, where torchrun has started several."""
    if world_size() == 1:
        yield
        return
    # NCCL for what is on GPUs, gloo for what is not. Long, as the others wait while rank 0 indexes a large data set.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=1))
    yield
    dist.destroy_process_group()  # not after an error: it could wait for ranks that are gone


def gather(value: Any) -> list[Any]:
    """Every rank's (picklable) value, by rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def worst(status: int) -> int:
    """The highest number that any rank has come with. Goes between CPUs: waits for the ranks, for no device."""
    if not dist.is_initialized():
        return status
    box = torch.tensor(status)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def average(value: Tensor) -> Tensor:
    """The mean of the ranks' tensors, on their device, which is not waited for."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= world_size()
    return value


def agreed(function: Callable[[], Any]) -> Any:
    """Call a function on every rank; a mistake on one ends all, and is told once.

    Raises:
        ValueError: on rank 0, the first rank's mistake (ValueError or OSError).
        SystemExit: on the others, without a word.
    """
    result, mistake = None, None
    try:
        result = function()
    except (ValueError, OSError) as error:
        mistake = str(error)
    first = next(filter(None, gather(mistake)), None)
    if first is None:
        return result
    if rank() == 0:
        raise ValueError(first) from None
    time.sleep(LAST_WORD_SECS)
    raise SystemExit(MISTAKE)


def rank_zero_first(function: Callable[[], Any]) -> Any:
    """`agreed`, the others after rank 0: they find what it has left on disk."""
    first = agreed(function if rank() == 0 else lambda: None)
    others = agreed(function if rank() > 0 else lambda: None)
    return first if rank() == 0 else others


def from_rank_zero(function: Callable[[], Any]) -> Any:
    """What a function returns on rank 0, on every rank; `agreed`."""
    return gather(agreed(function if rank() == 0 else lambda: None))[0]


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


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; where it only emulates it, float32 is faster."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, bf16: bool | None = None) -> torch.autocast:
    """bfloat16 autocast; None: if `fast_bf16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device) if bf16 is None else bf16)


def for_dreaming(model: WorldModel, device: torch.device, bf16: bool | None = None, packed: bool = True) -> WorldModel:
    """A copy of a model to dream with, in eval mode.

    Args:
        bf16: bfloat16 weights; None: if `fast_bf16`.
        packed: on the CPU, weights laid out for its matrix unit (model/packed.py); False: the plain reference.
    """
    fast = fast_bf16(device) if bf16 is None else bf16
    copied = copy.deepcopy(model).to(device, torch.bfloat16 if fast else torch.float32).eval().requires_grad_(False)
    return pack(copied) if packed and device.type == "cpu" else copied


def describe_device(device: torch.device) -> str:
    """For people: what the work runs on."""
    if device.type == "cuda":
        return f"GPU, {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads (no GPU in use: fit for small models only)"
