"""Keys and values of the frames that temporal attention looks back at, one ring a dream.

Shapes: S dreams (slots), T frames, P patches in a frame, N heads, K head dim, W frames in the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import ModelConfig
from model.rotary import apply_rotary_emb, temporal_cos_sin


class KVCache:
    """Preallocated, of fixed size: an hour of dreaming costs what a second does.

    Frame p of a dream stands at place p mod W of its ring, so a new frame takes the place of the one that leaves the
    window. The rotary angle of a frame is that of its *position*, p less a multiple of W, kept below 2 W: when a dream
    gets there, its keys are turned back by W positions. A key is turned back once in its life at most.

    Args:
        config: of the network.
        num_slots: S.
        dtype: of keys and values.
    """

    def __init__(self, config: ModelConfig, num_slots: int, device: torch.device, dtype: torch.dtype):
        self.window = config.window_frames
        shape = (config.num_blocks, num_slots, config.num_patches, config.num_heads, self.window, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self._cos_sin = temporal_cos_sin(config.head_dim, 2 * self.window).to(device)
        self.positions = [0] * num_slots  # of the frame that comes next
        self.lengths = [0] * num_slots  # frames before it that it may look at: at most W - 1

    @property
    def num_slots(self) -> int:
        """S."""
        return len(self.positions)

    @property
    def num_bytes(self) -> int:
        """Memory taken by keys and values."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def clear(self, slots: Sequence[int]) -> None:
        """Forget these dreams' frames."""
        for slot in slots:
            self.positions[slot] = self.lengths[slot] = 0

    def grow(self, num_slots: int) -> None:
        """Make room for as many dreams; those that are there stay as they are."""
        more = num_slots - self.num_slots
        blocks, _, *rest = self.keys.shape
        self.keys = torch.cat((self.keys, self.keys.new_zeros(blocks, more, *rest)), dim=1)
        self.values = torch.cat((self.values, self.values.new_zeros(blocks, more, *rest)), dim=1)
        self.positions += [0] * more
        self.lengths += [0] * more

    def begin(self, slots: Sequence[int], num_frames: int = 1) -> CacheView:
        """What the network needs to run on the next `num_frames` frames of these dreams."""
        return CacheView(self, slots, num_frames)

    def advance(self, slots: Sequence[int], num_frames: int = 1) -> None:
        """The frames that were last run on stay; the next ones come after them."""
        for slot in slots:
            self.positions[slot] += num_frames
            self.lengths[slot] = min(self.lengths[slot] + num_frames, self.window - 1)
        far = [slot for slot in slots if self.positions[slot] >= 2 * self.window]
        if far:
            back = self._cos_sin[self.window] * torch.tensor((1.0, -1.0), device=self.keys.device)
            self.keys[:, far] = apply_rotary_emb(self.keys[:, far], back)
            for slot in far:
                self.positions[slot] -= self.window


class CacheView:
    """The rings of some dreams, all of whose next T frames are run on together, as often as wanted.

    Each run writes the frames' keys and values anew at the same places; `KVCache.advance` then lets them stay.
    """

    def __init__(self, cache: KVCache, slots: Sequence[int], num_frames: int):
        assert num_frames < cache.window or num_frames == 1, "a prompt must leave room for the frame to come"
        device, window = cache.keys.device, cache.window
        self._cache, self._slots = cache, list(slots)
        self.whole = whole = self._slots == list(range(cache.num_slots))
        # All dreams together need no copy; some of them are copied out, and what is new goes back in `keep`.
        self._keys = cache.keys if whole else cache.keys[:, self._slots]
        self._values = cache.values if whole else cache.values[:, self._slots]
        positions = torch.tensor([cache.positions[slot] for slot in self._slots])[:, None] + torch.arange(num_frames)
        lengths = torch.tensor([cache.lengths[slot] for slot in self._slots])[:, None] + torch.arange(num_frames)
        assert positions.max() < 2 * window and (num_frames == 1 or lengths.max() < window)
        self.cos_sin = cache._cos_sin[positions.to(device)][:, :, None, None]  # (S, T, 1, 1, K/2, 2)
        self._places = (positions % window).to(device)  # (S, T)
        ages = (positions[:, :, None] - torch.arange(window)) % window  # (S, T, W), 0 is the frame itself
        mask = ages <= lengths[:, :, None].clamp(max=window - 1)
        patches = cache.keys.shape[2]
        # (S * P, 1, T, W), True where a frame may look; every head, and every patch of a dream, alike.
        self.mask = mask.repeat_interleave(patches, dim=0)[:, None].to(device)
        self._rows = torch.arange(len(self._slots), device=device)[:, None]

    def update(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write a block's keys and values of the new frames, (S, P, N, T, K); returns all, (S * P, N, W, K)."""
        keys, values = self._keys[block], self._values[block]
        # Advanced indices around slices come first: (S, T, P, N, K).
        keys[self._rows, :, :, self._places] = k.permute(0, 3, 1, 2, 4).to(keys.dtype)
        values[self._rows, :, :, self._places] = v.permute(0, 3, 1, 2, 4).to(values.dtype)
        return keys.flatten(0, 1), values.flatten(0, 1)

    def become(self, other: CacheView) -> None:
        """Stand where another view of the same dreams stands; tensors stay where they are, for a captured graph."""
        for mine, its in ((self.cos_sin, other.cos_sin), (self._places, other._places), (self.mask, other.mask)):
            mine.copy_(its)

    def keep(self) -> None:
        """Take over what was written, and go on to the frames after it."""
        num_frames = self._places.shape[1]
        if not self.whole:
            slots = torch.tensor(self._slots, device=self._rows.device)[:, None]
            for mine, cached in ((self._keys, self._cache.keys), (self._values, self._cache.values)):
                cached[:, slots, :, :, self._places] = mine[:, self._rows, :, :, self._places]
        self._cache.advance(self._slots, num_frames)
