"""Rank, world size, and the device of this process, as torchrun sets them."""

from __future__ import annotations

import os

import torch


def rank() -> int:
    """This process's number among all, 0 when alone."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def choose_device(wanted: str) -> torch.device:
    """The device to train or dream on, "auto" taking a GPU where there is one.

    Raises:
        ValueError: CUDA asked for and absent.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        build = f"torch {torch.__version__} was built without CUDA" if not torch.version.cuda else "no GPU is visible"
        raise ValueError(f"CUDA was asked for, but {build}: use --device cpu, or install another torch build")
    return torch.device(wanted)


def describe_device(device: torch.device) -> str:
    """For people: what the work runs on."""
    if device.type == "cuda":
        return f"GPU, {torch.cuda.get_device_name(device)}"
    return f"CPU, {torch.get_num_threads()} threads (no GPU in use: fit for small models only)"
