"""A batch of clips, the same from the loader to the loss, and its frames as bytes and as floats.

Shapes: B clips, T frames, C channels, H x W pixels, A action vector, L bytes of text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dreamrun.data.outcomes import Outcomes


@dataclass(frozen=True)
class Batch:
    """B clips. Their frames are bytes until the loss asks for `x0`, on the device."""

    frames: Tensor  # uint8 (B, T, H, W, C)
    actions: Tensor  # float32 (B, T, A); actions[:, t] leads into frame t; zeros where it is unknown
    record_ids: np.ndarray  # int64 (B,), index of each clip's record in the split
    starts: np.ndarray  # int64 (B,), index of each clip's first frame in its record
    seeds: np.ndarray  # uint64 (B,), of all randomness of each clip; depends on (seed, epoch, record, start) alone
    outcomes: Outcomes | None = None  # of a `ClipDataset` with outcomes
    captions: np.ndarray | None = None  # str (B,) what is played in each clip, in words; "" if nobody said so
    text: Tensor | None = None  # uint8 (B, L), what the network is told of each clip
    number: int = 0  # of the data set, in a `Mixture`

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def x0(self) -> Tensor:
        """The frames as the network sees them: float32 (B, T, C, H, W) in [-1, 1]."""
        return to_float(self.frames)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device. Nothing waits for the copy."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in memory from which a GPU copies while it computes."""
        return self._map(Tensor.pin_memory)

    def select(self, clips: slice | np.ndarray) -> Batch:
        """Some of the clips."""
        rows = clips
        if isinstance(clips, np.ndarray):
            rows = torch.from_numpy(clips).to(self.frames.device, non_blocking=True)
        return replace(
            self._map(lambda tensor: tensor[rows]),
            record_ids=self.record_ids[clips],
            starts=self.starts[clips],
            seeds=self.seeds[clips],
            captions=None if self.captions is None else self.captions[clips],
        )

    def chunk(self, num_parts: int) -> list[Batch]:
        """The batch in parts of equal size."""
        size = len(self) // num_parts
        return [self.select(slice(first, first + size)) for first in range(0, len(self), size)]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            frames=function(self.frames),
            actions=function(self.actions),
            text=None if self.text is None else function(self.text),
            outcomes=None if self.outcomes is None else Outcomes(*map(function, self.outcomes)),
        )


def to_float(frames: Tensor | np.ndarray) -> Tensor:
    """uint8 (..., H, W, C) in 0 to 255 -> float32 (..., C, H, W) in -1 to 1, on the same device."""
    frames = torch.as_tensor(frames)
    assert frames.dtype == torch.uint8, frames.dtype
    channels_first = frames.movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format)
    return channels_first.mul_(2.0 / 255.0).sub_(1.0)


def to_levels(frames: Tensor) -> Tensor:
    """float (..., C, H, W) in -1 to 1 -> float32 of the same shape, rounded to 0, 1, ... 255, on the same device."""
    return frames.float().add(1.0).mul(255.0 / 2.0).round().clamp(0, 255)


def to_uint8(frames: Tensor) -> np.ndarray:
    """float (..., C, H, W) in -1 to 1 -> uint8 (..., H, W, C), rounded and clipped, on the CPU."""
    return to_levels(frames).to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()
