"""The memory that players need, compared with what is free when the server starts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dreamrun.model.inference import free_memory
from dreamrun.play.played_game import MAX_NUM_STEPS
from dreamrun.play.recording import max_recording_bytes
from dreamrun.play.rollout_pool import RolloutPool


def check_memory(
    pool: RolloutPool,
    max_players: int,
    device: torch.device,
    free_memory: Callable[[torch.device], int | None] = free_memory,
) -> str:
    """Check that all places can be taken at once. Returns what one player needs, for the log.

    A program may generate one more rollout (play/api.py).

    Args:
        free_memory: the bytes that are free on a device; None: unknown.

    Raises:
        ValueError: there is too little memory; it says how many players fit.
    """
    rollout, recording = pool.bytes_per_rollout(MAX_NUM_STEPS), max_recording_bytes(pool.config.frame_shape)
    needs = {device: rollout}  # bytes of one player
    cpu = torch.device("cpu")
    needs[cpu] = needs.get(cpu, 0) + recording
    for place, per_player in needs.items():
        free, other = free_memory(place), rollout if place == device else 0
        if free is None or max_players * per_player + other <= free:
            continue
        fitting = max(0, free - other) // per_player
        remedy = f"choose --max-players {fitting}" if fitting else "play a smaller checkpoint"
        raise ValueError(
            f"{max_players} players need up to {_gib(max_players * per_player + other)}, and {_gib(free)} are free on "
            f"the {'GPU' if place.type == 'cuda' else 'CPU'}: {remedy}"
        )
    return f"memory per player: up to {rollout / 2**20:.0f} MiB, and {recording / 2**20:.0f} MiB more while recording"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
