"""Full attention: over all patches of all frames in the window at once, causal from frame to frame.

Shapes: B batch, T frames, P patches in a frame, D width, N heads, K head dim; D = N * K.
"""

from __future__ import annotations

from functools import cache as cached
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from dreamrun.model.attention import Attention, TemporalMask
from dreamrun.model.rotary import RotaryTable, apply_rotary_emb, space_time_cos_sin

if TYPE_CHECKING:
    from dreamrun.model.kv_cache import CacheView


class FullAttention(Attention):
    """Every patch attends to all patches of its own frame and of those frames that the mask allows.

    Args:
        rotary: for frames, (positions, K/4, 2).
        block_index: index of the block, for the KV cache.
    """

    def __init__(self, dim: int, num_heads: int, rotary: RotaryTable, block_index: int):
        super().__init__(dim, num_heads)
        self.rotary, self.block_index = rotary, block_index

    def forward(
        self,
        x: Tensor,
        places: Tensor,
        mask: Tensor | BlockMask | None,
        positions: Tensor | None = None,
        cache: CacheView | None = None,
    ) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D).

        Args:
            places: for rows and columns, (P, K/4, 2).
            mask: from `token_mask`.
            positions: (T,) int64, position of each frame in time; None: 0 to T - 1.
            cache: earlier frames, whose keys and values it holds; replaces `mask` and `positions`.
        """
        if cache is not None:
            return self._forward_cached(x, cache)
        num_frames = x.shape[1]
        temporal = self.rotary.cos_sin[:num_frames] if positions is None else self.rotary.cos_sin[positions]
        cos_sin = space_time_cos_sin(temporal, places).flatten(0, 1)  # (T * P, K/2, 2)
        qkv = rearrange(self.to_qkv(x), "b t p (qkv n k) -> qkv b n (t p) k", qkv=3, n=self.num_heads)
        q, k = apply_rotary_emb(qkv[:2], cos_sin)
        out = _masked_attention(q, k, qkv[2], mask)
        return self.to_out(rearrange(out, "b n (t p) k -> b t p (n k)", t=num_frames))

    def _forward_cached(self, x: Tensor, cache: CacheView) -> Tensor:
        """Attend to the cached frames and the new ones (B, T, P, D), whose keys and values the cache takes in."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0)  # (3, B, T, P, N, K)
        q, k = apply_rotary_emb(qkv[:2], cache.cos_sin)
        keys, values = cache.update(self.block_index, k, qkv[2])
        out = F.scaled_dot_product_attention(rearrange(q, "b t p n k -> b n (t p) k"), keys, values, cache.mask)
        return self.to_out(rearrange(out, "b n (t p) k -> b t p (n k)", t=x.shape[1]))


def token_mask(
    frame_mask: TemporalMask, num_frames: int, num_patches: int, device: torch.device
) -> Tensor | BlockMask | None:
    """Mask over the tokens of T frames: all patches of a frame see the same frames.

    Args:
        frame_mask: which frames a frame attends to.

    Returns:
        On a GPU a `BlockMask` for FlexAttention, whose kernel skips what is masked; else (T * P, T * P) bool. None if
        every frame attends to every other one.
    """
    if frame_mask is None:
        return None
    if isinstance(frame_mask, str):
        frame_mask = torch.ones(num_frames, num_frames, dtype=torch.bool, device=device).tril()
    if device.type == "cuda":
        return block_mask(frame_mask, num_patches)
    return frame_mask.repeat_interleave(num_patches, 0).repeat_interleave(num_patches, 1)


def block_mask(frame_mask: Tensor, num_patches: int) -> BlockMask:
    """`token_mask` for FlexAttention (arXiv 2412.05496)."""

    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return frame_mask[query // num_patches, key // num_patches]

    num_tokens = len(frame_mask) * num_patches
    return create_block_mask(attends, None, None, num_tokens, num_tokens, device=frame_mask.device.type)


def _masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Attention of q to k and v, all (B, N, L, K), under a mask from `token_mask`."""
    if mask is None or isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, mask)
    flex = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
    return flex(q, k, v, block_mask=mask)


@cached
def _compiled_flex_attention():
    """Without compilation FlexAttention computes the whole matrix of scores."""
    return torch.compile(flex_attention)
