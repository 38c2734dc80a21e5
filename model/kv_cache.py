"""KV cache of attention over time: one ring buffer of keys and values per slot.

Shapes: S slots, T new frames, P patches in a frame, N heads, K head dim, W frames in the window.
Patches that attend to one another form a group: G groups of Q patches, P = G * Q. Axial attention has P groups
of 1, full attention has 1 group of P.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamrun.model.config import ModelConfig
from dreamrun.model.rotary import apply_rotary_emb, space_time_cos_sin, spatial_cos_sin, temporal_cos_sin


class KVCache:
    """Keys and values of the last W frames of S rollouts. Memory and time per frame do not grow with the rollout.

    Frame p of a rollout is at index p mod W of its slot's ring, so a new frame overwrites the frame that leaves the
    window. The rotary angle of a frame depends on its *position*, which stays below 2 W. When a slot reaches position
    2 W, its position goes back by W, and its keys are rotated back by W positions. A key is rotated back at most once.

    Example with W = 4: frames 0 to 7 have positions 0 to 7 and ring indices 0, 1, 2, 3, 0, 1, 2, 3. The next position
    would be 8 = 2 W. So the keys of frames 4 to 7 are rotated back to positions 0 to 3, and frame 8 has position 4 and
    ring index 0.
    """

    def __init__(self, config: ModelConfig, num_slots: int, device: torch.device, dtype: torch.dtype):
        self.config = config
        window = config.window_frames
        is_full = config.attention == "full"
        groups = (1, config.num_patches) if is_full else (config.num_patches, 1)  # G, Q
        shape = (config.num_blocks, num_slots, groups[0], config.num_heads, window, groups[1], config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        cos_sin = temporal_cos_sin(config.rotary_dim, 2 * window)  # (2 W, K/2, 2); full: half of a head, (2 W, K/4, 2)
        # The complex conjugate of the rotation by W positions. The spatial part of a head does not rotate.
        back = cos_sin[window] * torch.tensor((1.0, -1.0))
        self._spatial: Tensor | None = None
        if is_full:
            self._spatial = spatial_cos_sin(config.rotary_dim, config.grid).to(device, non_blocking=True)  # (P, K/4, 2)
            back = torch.cat((back, torch.tensor((1.0, 0.0)).expand_as(back)))
        self.cos_sin, self._rotation_back = (x.to(device, non_blocking=True) for x in (cos_sin, back))
        self.window_frames = window
        self.positions = [0] * num_slots  # of the next frame
        self.lengths = [0] * num_slots  # earlier frames that the next frame attends to: at most W - 1

    @property
    def num_slots(self) -> int:
        """S."""
        return len(self.positions)

    @property
    def num_bytes(self) -> int:
        """Memory taken by keys and values."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def clear(self, slots: Sequence[int]) -> None:
        """Empty these slots."""
        for slot in slots:
            self.positions[slot] = self.lengths[slot] = 0

    def grow(self, num_slots: int) -> None:
        """Add empty slots until there are `num_slots`."""
        num_new = num_slots - self.num_slots
        num_blocks, _, *rest = self.keys.shape
        self.keys = torch.cat((self.keys, self.keys.new_zeros(num_blocks, num_new, *rest)), dim=1)
        self.values = torch.cat((self.values, self.values.new_zeros(num_blocks, num_new, *rest)), dim=1)
        self.positions += [0] * num_new
        self.lengths += [0] * num_new

    def angles(self, positions: Tensor) -> Tensor:
        """Cosines and sines of new frames at positions (S, T): (S, T, 1 or P, 1, K/2, 2), for every patch and head."""
        temporal = self.cos_sin[positions.to(self.cos_sin.device, non_blocking=True)]  # (S, T, K/2, 2)
        cos_sin = temporal[:, :, None] if self._spatial is None else space_time_cos_sin(temporal, self._spatial)
        return cos_sin.unsqueeze(3)

    def view(self, slots: Sequence[int], num_frames: int = 1) -> CacheView:
        """The view through which the network reads these slots and writes their next `num_frames` frames."""
        return CacheView(self, slots, num_frames)

    def advance(self, slots: Sequence[int], num_frames: int = 1) -> None:
        """Keep the frames last written to these slots: later frames come after them."""
        for slot in slots:
            self.positions[slot] += num_frames
            self.lengths[slot] = min(self.lengths[slot] + num_frames, self.window_frames - 1)
        wrapped = [slot for slot in slots if self.positions[slot] >= 2 * self.window_frames]
        if wrapped:
            rows = torch.tensor(wrapped).to(self.keys.device, non_blocking=True)
            self.keys[:, rows] = apply_rotary_emb(self.keys[:, rows], self._rotation_back)
            for slot in wrapped:
                self.positions[slot] -= self.window_frames


class CacheView:
    """Some slots of a cache, and where their next T frames belong.

    The network may run on these frames several times, as in denoising: each run overwrites their keys and values.
    `commit` then keeps those of the last run.
    """

    def __init__(self, cache: KVCache, slots: Sequence[int], num_frames: int):
        window = cache.window_frames
        assert num_frames < window or num_frames == 1, "a prompt must leave room for the next frame"
        device = cache.keys.device
        self._cache, self._slots = cache, list(slots)
        self.covers_all_slots = self._slots == list(range(cache.num_slots))
        # A view of all slots shares the cache's memory. Otherwise it is a copy, and `commit` writes new frames back.
        self._rows = torch.tensor(self._slots).to(device, non_blocking=True)
        self._keys = cache.keys if self.covers_all_slots else cache.keys[:, self._rows]
        self._values = cache.values if self.covers_all_slots else cache.values[:, self._rows]

        offsets = torch.arange(num_frames)
        positions = torch.tensor([cache.positions[slot] for slot in self._slots])[:, None] + offsets  # (S, T)
        lengths = torch.tensor([cache.lengths[slot] for slot in self._slots])[:, None] + offsets  # (S, T)
        assert positions.max() < 2 * window and (num_frames == 1 or lengths.max() < window)
        self.cos_sin = cache.angles(positions)
        self._slot_indices = torch.arange(len(self._slots), device=device)[:, None]  # (S, 1)
        self._ring_indices = (positions % window).to(device, non_blocking=True)  # (S, T)

        ages = (positions[:, :, None] - torch.arange(window)) % window  # (S, T, W), 0 is the frame itself
        mask = ages <= lengths[:, :, None].clamp(max=window - 1)
        self._groups = cache.keys.shape[2], cache.keys.shape[5]  # G, Q
        # (S * G, 1, T * Q, W * Q), True where a patch attends; the same for every head, and for every group of a slot.
        mask = mask.repeat_interleave(self._groups[0], dim=0)[:, None]
        mask = mask.repeat_interleave(self._groups[1], 2).repeat_interleave(self._groups[1], 3)
        self.mask = mask.to(device, non_blocking=True)

    def update(self, block_index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write a block's keys and values of the new frames, (S, T, P, N, K). Return all: (S * G, N, W * Q, K)."""
        keys, values = self._keys[block_index], self._values[block_index]
        # Index tensors on both sides of slices put the indexed axes first: (S, T, G, N, Q, K).
        keys[self._slot_indices, :, :, self._ring_indices] = self._group(k).to(keys.dtype)
        values[self._slot_indices, :, :, self._ring_indices] = self._group(v).to(values.dtype)
        return keys.flatten(0, 1).flatten(2, 3), values.flatten(0, 1).flatten(2, 3)

    def _group(self, x: Tensor) -> Tensor:
        """(S, T, P, N, K) -> (S, T, G, N, Q, K)."""
        return x.unflatten(2, self._groups).transpose(3, 4)

    def copy_from(self, other: CacheView) -> None:
        """Move to the position of another view of the same slots. Copies into the same tensors, for a CUDA graph."""
        self.cos_sin.copy_(other.cos_sin)
        self._ring_indices.copy_(other._ring_indices)
        self.mask.copy_(other.mask)

    def commit(self, slots: Sequence[int] | None = None) -> None:
        """Keep what was last written, and advance the slots past these frames; of a view of all slots, maybe only some.

        What was written to the others is overwritten by their next frame.
        """
        if not self.covers_all_slots:
            for source, target in ((self._keys, self._cache.keys), (self._values, self._cache.values)):
                written = source[:, self._slot_indices, :, :, self._ring_indices]
                target[:, self._rows[:, None], :, :, self._ring_indices] = written
        assert self.covers_all_slots or slots is None or list(slots) == self._slots
        self._cache.advance(self._slots if slots is None else slots, num_frames=self._ring_indices.shape[1])
