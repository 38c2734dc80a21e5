"""Axial attention: over the patches of one frame, or over the frames of one patch position.

Shapes: B batch, T frames, P patches in a frame, D width, N heads, K head dim; D = N * K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.rotary import (
    RotaryTable,
    apply_rotary_emb,
)

if TYPE_CHECKING:
    from model.kv_cache import CacheView


class Attention(nn.Module):
    """Multi-head attention with one fused qkv projection (no bias) and an output projection (bias)."""

    def __init__(self, dim: int, num_heads: int, rotary: RotaryTable):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.rotary = rotary

    def qkv(self, x: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., D), cos_sin that broadcasts to (..., 1, K/2, 2) -> rotated q and k, and v, each (..., N, K)."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k = apply_rotary_emb(qkv[..., :2, :, :], cos_sin.unsqueeze(-4)).unbind(-3)
        return q, k, qkv[..., 2, :, :]

    def project(self, out: Tensor) -> Tensor:
        """(..., N, L, K) -> (..., L, D)."""
        return self.to_out(out.transpose(-3, -2).flatten(-2))


class SpatialAttention(Attention):
    """Every patch of a frame attends to every patch of the same frame."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D)."""
        q, k, v = (t.transpose(1, 2) for t in self.qkv(x.flatten(0, 1), self.rotary.cos_sin[:, None]))
        return self.project(attend(q, k, v)).unflatten(0, x.shape[:2])


class TemporalAttention(Attention):
    """Every patch attends to itself in this frame and in those before it (causal)."""

    def forward(self, x: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D).

        Args:
            mask: (T, T), True where a query row may look; replaces the causal one.
            positions: (T,) of the frames in time; replace 0 to T - 1.
        """
        batch, num_frames = x.shape[:2]
        cos_sin = self.rotary.cos_sin[:num_frames] if positions is None else self.rotary.cos_sin[positions]
        # One copy of x, in place of one each of q, k and v.
        x = x.transpose(1, 2).flatten(0, 1)
        q, k, v = (t.transpose(1, 2) for t in self.qkv(x, cos_sin[:, None]))
        return self.project(attend(q, k, v, mask, causal=mask is None)).unflatten(0, (batch, -1)).transpose(1, 2)

    def forward_cached(self, x: Tensor, block: int, cache: CacheView) -> Tensor:
        """The same for frames (B, T, P, D) that come after those of a `CacheView`, whose block number this is."""
        # (B, T, P, N, K) -> (B, P, N, T, K): views for a single frame, and a linear map is slow on a strided x.
        q, k, v = (t.permute(0, 2, 3, 1, 4) for t in self.qkv(x, cache.cos_sin))
        keys, values = cache.update(block, k, v)
        out = attend(q.flatten(0, 1), keys, values, cache.mask).unflatten(0, q.shape[:2])
        return self.to_out(out.permute(0, 3, 1, 2, 4).flatten(3))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Attention of q (B, N, L, K) to k and v (B, N, S, K); mask broadcasts to (B, N, L, S), True where to look.

    `causal` stands for a triangular mask, with which a GPU would have to do without its fastest kernel.
    """
    # On the CPU the backward pass of the fused kernel takes four to six times as long as plain matrix products.
    plain = q.device.type == "cpu" and torch.is_grad_enabled()
    attention = plain_attention if plain else F.scaled_dot_product_attention
    return attention(q, k, v, mask, is_causal=causal)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """`softmax(q k^T / sqrt(K)) v` (arXiv 1706.03762, eq. 1) over the last two axes."""
    if is_causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).type_as(v) @ v
