"""Axial attention: over the patches of one frame, or over the frames of one patch position.

Shapes: B batch, T frames, P patches in a frame, D width, N heads, K head dim, L query length, S key length; D = N * K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dreamrun.model.rotary import RotaryTable, apply_rotary_emb

if TYPE_CHECKING:
    from dreamrun.model.kv_cache import CacheView

# Which frames a frame attends to: to itself and earlier ones; to all of them (None); or as a (T, T) bool tensor says,
# True where the query frame (row) attends to the key frame (column).
TemporalMask = Tensor | Literal["causal"] | None


class Attention(nn.Module):
    """Multi-head attention with one fused qkv projection (no bias) and an output projection (bias)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)


class SpatialAttention(Attention):
    """Every patch of a frame attends to every patch of the same frame."""

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D), with the rotary table (P, K/2, 2) of the patches."""
        qkv = rearrange(self.to_qkv(x), "b t p (qkv n k) -> qkv (b t) n p k", qkv=3, n=self.num_heads)
        q, k = apply_rotary_emb(qkv[:2], places)
        out = attention(q, k, qkv[2])
        return self.to_out(rearrange(out, "(b t) n p k -> b t p (n k)", b=x.shape[0]))


class TemporalAttention(Attention):
    """Every patch attends to the same patch position in this frame and in those frames that the mask allows.

    Args:
        block_index: index of the block, for the KV cache.
    """

    def __init__(self, dim: int, num_heads: int, rotary: RotaryTable, block_index: int):
        super().__init__(dim, num_heads)
        self.rotary, self.block_index = rotary, block_index

    def forward(
        self, x: Tensor, mask: TemporalMask = "causal", positions: Tensor | None = None, cache: CacheView | None = None
    ) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D).

        Args:
            mask: which frames a frame attends to.
            positions: (T,) int64, position of each frame in time; None: 0 to T - 1.
            cache: earlier frames, whose keys and values it holds; replaces `mask` and `positions`.
        """
        if cache is not None:
            return self._forward_cached(x, cache)
        cos_sin = self.rotary.cos_sin[: x.shape[1]] if positions is None else self.rotary.cos_sin[positions]
        batch = x.shape[0]
        x = rearrange(x, "b t p d -> (b p) t d")  # one copy of x, in place of one each of q, k and v
        qkv = rearrange(self.to_qkv(x), "bp t (qkv n k) -> qkv bp n t k", qkv=3, n=self.num_heads)
        q, k = apply_rotary_emb(qkv[:2], cos_sin)
        frame_mask, causal = (None, True) if isinstance(mask, str) else (mask, False)
        out = attention(q, k, qkv[2], frame_mask, causal)
        return rearrange(self.to_out(rearrange(out, "bp n t k -> bp t (n k)")), "(b p) t d -> b t p d", b=batch)

    def _forward_cached(self, x: Tensor, cache: CacheView) -> Tensor:
        """Attend to the cached frames and the new ones (B, T, P, D), whose keys and values the cache takes in."""
        # Torch ops in place of einops, whose overhead per call would add 1 % to the time of a frame. They are views.
        qkv = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0)  # (3, B, T, P, N, K)
        q, k = apply_rotary_emb(qkv[:2], cache.cos_sin)
        keys, values = cache.update(self.block_index, k, qkv[2])
        out = attention(q.permute(0, 2, 3, 1, 4).flatten(0, 1), keys, values, cache.mask)
        out = out.unflatten(0, (x.shape[0], -1)).permute(0, 3, 1, 2, 4)  # (B, T, P, N, K)
        return self.to_out(out.flatten(3))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Attention of q (B, N, L, K) to k and v (B, N, S, K).

    Args:
        mask: bool, broadcasts to (B, N, L, S), True where a query attends to a key.
        causal: use a triangular mask. With an explicit mask a GPU cannot use its fastest kernel.
    """
    # On the CPU the backward pass of the fused kernel takes four to six times as long as plain matrix products.
    if q.device.type == "cpu" and torch.is_grad_enabled():
        return plain_attention(q, k, v, mask, causal)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """`softmax(q k^T / sqrt(K)) v` (arXiv 1706.03762, eq. 1) over the last two axes."""
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).type_as(v) @ v
