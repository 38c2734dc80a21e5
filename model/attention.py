"""Axial attention: over the patches of one frame, or over the frames of one patch position.

Shapes: B batch, T frames, P patches in a frame, D width, N heads, K head dim; D = N * K.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor, nn

if TYPE_CHECKING:
    from model.kv_cache import CacheView


def spatial_turns(head_dim: int, grid: tuple[int, int]) -> Tensor:
    """Axial "pixel" frequencies over rows and columns, half a head each, max_freq 256: float32 (P, K/2, 2)."""
    angles = RotaryEmbedding(dim=head_dim // 2, freqs_for="pixel", max_freq=256).get_axial_freqs(*grid)
    return _turns(angles.reshape(-1, head_dim))


def temporal_turns(head_dim: int, num_positions: int) -> Tensor:
    """Theta 10000 over frames: float32 (positions, K/2, 2)."""
    rotary = RotaryEmbedding(dim=head_dim, cache_if_possible=False)
    return _turns(rotary(torch.arange(num_positions, dtype=torch.float32)))


def _turns(angles: Tensor) -> Tensor:
    """Angles (positions, K) in radians, each twice in a row, as the library lays them out -> cosines and sines."""
    angles = angles.detach()[:, ::2]
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864): pairs of numbers in x (..., K) turn by (..., K/2, 2).

    In float32 whatever the type of x, which is kept. `turns` are cosines and sines; the complex product is the fast
    path, six times as fast on a CPU, but torch.compile makes no code for complex numbers.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        return rotate_real(pairs, turns).flatten(-2).type_as(x)
    product = torch.view_as_complex(pairs) * torch.view_as_complex(turns)
    return torch.view_as_real(product).flatten(-2).type_as(x)


def rotate_real(pairs: Tensor, turns: Tensor) -> Tensor:
    """`(a cos - b sin, a sin + b cos)` of pairs (..., 2) and their turns (..., 2)."""
    (a, b), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)


class RotaryTable(nn.Module):
    """The turn of every position, cosines and sines (positions, K/2, 2), float32 whatever the weights' type."""

    def __init__(self, turns: Tensor):
        super().__init__()
        self.register_buffer("turns", turns, persistent=False)

    def _apply(self, fn, recurse=True):
        """Moves with the module but never changes type: bfloat16 angles would round positions."""
        turns, self.turns = self.turns, self.turns[:0]
        super()._apply(fn, recurse)
        self.turns = turns.to(self.turns.device)
        return self


class Attention(nn.Module):
    """Multi-head attention with one fused qkv projection (no bias) and an output projection (bias)."""

    def __init__(self, dim: int, num_heads: int, rotary: RotaryTable):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.rotary = rotary

    def qkv(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., D), turns that broadcast to (..., 1, K/2, 2) -> rotated q and k, and v, each (..., N, K)."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k = rotate(qkv[..., :2, :, :], turns.unsqueeze(-4)).unbind(-3)
        return q, k, qkv[..., 2, :, :]

    def project(self, out: Tensor) -> Tensor:
        """(..., N, L, K) -> (..., L, D)."""
        return self.to_out(out.transpose(-3, -2).flatten(-2))


class SpatialAttention(Attention):
    """Every patch of a frame attends to every patch of the same frame."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D)."""
        q, k, v = (t.transpose(1, 2) for t in self.qkv(x.flatten(0, 1), self.rotary.turns[:, None]))
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
        turns = self.rotary.turns[:num_frames] if positions is None else self.rotary.turns[positions]
        # One copy of x, in place of one each of q, k and v.
        x = x.transpose(1, 2).flatten(0, 1)
        q, k, v = (t.transpose(1, 2) for t in self.qkv(x, turns[:, None]))
        return self.project(attend(q, k, v, mask, causal=mask is None)).unflatten(0, (batch, -1)).transpose(1, 2)

    def continued(self, x: Tensor, block: int, cache: CacheView) -> Tensor:
        """The same for frames (B, T, P, D) that come after those of a `CacheView`, whose block number this is."""
        # (B, T, P, N, K) -> (B, P, N, T, K): views for a single frame, and a linear map is slow on a strided x.
        q, k, v = (t.permute(0, 2, 3, 1, 4) for t in self.qkv(x, cache.turns))
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
