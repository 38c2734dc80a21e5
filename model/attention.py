"""Axial attention: over the patches of one frame, or over the frames of one patch position.

Shapes: B batch, T frames, P patches in a frame, D width, N heads, K head dim; D = N * K.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor, nn


class RotaryTable(nn.Module):
    """Cosines and sines of rotary position embedding (RoFormer, arXiv 2104.09864), float32 whatever the weights' type.

    Args:
        angles: (positions, K) in radians, each angle twice in a row, as `rotary_embedding_torch` lays them out.
    """

    def __init__(self, angles: Tensor):
        super().__init__()
        assert angles.dtype == torch.float32 and angles.ndim == 2
        turns = torch.polar(torch.ones_like(angles[:, ::2]), angles.detach()[:, ::2])
        self.register_buffer("turns", turns, persistent=False)  # complex64 (positions, K/2)

    def _apply(self, fn, recurse=True):
        """Moves with the module but never changes type: bfloat16 angles would round positions."""
        turns, self.turns = self.turns, self.turns.real
        super()._apply(fn, recurse)
        self.turns = turns.to(self.turns.device)
        return self

    def forward(self, x: Tensor, positions: Tensor | slice = slice(None)) -> Tensor:
        """Rotate x (..., L, N, K), whose L entries stand at `positions` of the table; type and shape are kept."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.turns[positions].unsqueeze(-2)).flatten(-2).type_as(x)


def spatial_rotary(head_dim: int, grid: tuple[int, int]) -> RotaryTable:
    """Axial "pixel" frequencies over rows and columns: half a head each, max_freq 256. One position a patch."""
    angles = RotaryEmbedding(dim=head_dim // 2, freqs_for="pixel", max_freq=256).get_axial_freqs(*grid)
    return RotaryTable(angles.reshape(-1, head_dim))


def temporal_rotary(head_dim: int, num_positions: int) -> RotaryTable:
    """Theta 10000 over frames."""
    rotary = RotaryEmbedding(dim=head_dim, cache_if_possible=False)
    return RotaryTable(rotary(torch.arange(num_positions, dtype=torch.float32)))


class Attention(nn.Module):
    """Multi-head attention with one fused qkv projection (no bias) and an output projection (bias)."""

    def __init__(self, dim: int, num_heads: int, rotary: RotaryTable):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.rotary = rotary

    def qkv(self, x: Tensor, positions: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., L, D) -> rotated queries, rotated keys, values, each (..., L, N, K)."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        return self.rotary(q, positions), self.rotary(k, positions), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B, L, N, K), k and v (B, S, N, K), mask (L, S) True where to look -> (B, L, D)."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        # On the CPU the backward pass of the fused kernel takes four to six times as long as plain matrix products.
        plain = q.device.type == "cpu" and torch.is_grad_enabled()
        out = plain_attention(q, k, v, mask) if plain else F.scaled_dot_product_attention(q, k, v, mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`softmax(q k^T / sqrt(K)) v` (arXiv 1706.03762, eq. 1) over the last two axes."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).type_as(v) @ v


class SpatialAttention(Attention):
    """Every patch of a frame attends to every patch of the same frame."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D)."""
        q, k, v = (t.flatten(0, 1) for t in self.qkv(x))
        return self.attend(q, k, v).unflatten(0, x.shape[:2])


class TemporalAttention(Attention):
    """Every patch attends to itself in this frame and in those before it (causal)."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D). `mask` (T, T), True where a query row may look, replaces the causal one."""
        num_frames = x.shape[1]
        q, k, v = self.qkv(x.transpose(1, 2).flatten(0, 1), slice(num_frames))
        if mask is None:
            mask = torch.ones(num_frames, num_frames, dtype=torch.bool, device=x.device).tril()
        out = self.attend(q, k, v, mask)
        return out.unflatten(0, (x.shape[0], -1)).transpose(1, 2)
