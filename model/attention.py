"""Attention: axial, over the patches of one frame or over the frames of one patch position; or full, over all patches
of all frames in the window at once.

Shapes: B batch, T frames, P patches in a frame, D width, N heads, K head dim, L query length, S key length; D = N * K.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from dreamrun.model.kv_cache import CacheView
from dreamrun.model.rotary import RotaryTable, apply_rotary_emb, space_time_cos_sin

# Which frames a frame attends to: to itself and earlier ones; to all of them (None); or as a (T, T) bool tensor says,
# True where the query frame (row) attends to the key frame (column).
TemporalMask = Tensor | Literal["causal"] | None

MAX_KERNEL_BATCH = 65535  # flash attention on a GPU fails for more
MIN_FLEX_HEAD_DIM = 16  # FlexAttention on a GPU refuses smaller heads


class AttentionInput(NamedTuple):
    """What attention takes beside the tokens."""

    spatial: Tensor  # rotary table of the patches: (P, K/2, 2), or (P, K/4, 2) in full attention
    mask: TemporalMask | BlockMask = "causal"  # which frames a frame attends to; in full attention from `token_mask`
    positions: Tensor | None = None  # (T,) int64, position of each frame in time; None: 0 to T - 1
    cache: CacheView | None = None  # earlier frames, whose keys and values it holds; replaces `mask` and `positions`


class Attention(nn.Module):
    """Multi-head attention with one fused qkv projection (no bias) and an output projection (bias)."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        # cuDNN comes first on an H100, but its gradients can be NaN under a mask (pytorch issue 196678), and it makes a
        # plan for each shape.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)


class SpatialAttention(Attention):
    """Every patch of a frame attends to every patch of the same frame."""

    def forward(self, x: Tensor, inputs: AttentionInput) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D)."""
        qkv = rearrange(self.to_qkv(x), "b t p (qkv n k) -> qkv (b t) n p k", qkv=3, n=self.num_heads)
        q, k, v = rotate(qkv, inputs.spatial)
        out = attention(q, k, v)
        return self.to_out(rearrange(out, "(b t) n p k -> b t p (n k)", b=x.shape[0]))


class CachedAttention(Attention):
    """Attention over time, with the rotary table of frames, (positions, K/2, 2), or (positions, K/4, 2) if it is full.

    A KV cache can hold the keys and values of the block.
    """

    def __init__(self, dim: int, num_heads: int, rotary: RotaryTable, block_index: int):
        super().__init__(dim, num_heads)
        self.rotary, self.block_index = rotary, block_index

    def frame_cos_sin(self, num_frames: int, positions: Tensor | None) -> Tensor:
        """The rotary table of T frames."""
        return self.rotary.cos_sin[:num_frames] if positions is None else self.rotary.cos_sin[positions]

    def update(self, x: Tensor, cache: CacheView) -> tuple[Tensor, Tensor, Tensor]:
        """Write new frames (B, T, P, D) to the cache: their queries (B, T, P, N, K), and all its keys and values."""
        # Torch ops in place of einops, whose overhead per call would add 1 % to the time of a frame. They are views.
        qkv = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0)  # (3, B, T, P, N, K)
        q, k, v = rotate(qkv, cache.cos_sin)
        return q, *cache.update(self.block_index, k, v)


class TemporalAttention(CachedAttention):
    """Every patch attends to the same patch position in this frame and in those frames that the mask allows."""

    def forward(self, x: Tensor, inputs: AttentionInput) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D)."""
        batch, num_frames = x.shape[:2]
        if inputs.cache is not None:
            q, keys, values = self.update(x, inputs.cache)
            out = attention(q.permute(0, 2, 3, 1, 4).flatten(0, 1), keys, values, inputs.cache.mask)
            out = out.unflatten(0, (batch, -1)).permute(0, 3, 1, 2, 4)  # (B, T, P, N, K)
            return self.to_out(out.flatten(3))
        x = rearrange(x, "b t p d -> (b p) t d")  # one copy of x, in place of one each of q, k and v
        qkv = rearrange(self.to_qkv(x), "bp t (qkv n k) -> qkv bp n t k", qkv=3, n=self.num_heads)
        q, k, v = rotate(qkv, self.frame_cos_sin(num_frames, inputs.positions))
        mask, causal = (None, True) if isinstance(inputs.mask, str) else (inputs.mask, False)
        assert not isinstance(mask, BlockMask)
        out = attention(q, k, v, mask, causal)
        return rearrange(self.to_out(rearrange(out, "bp n t k -> bp t (n k)")), "(b p) t d -> b t p d", b=batch)


class FullAttention(CachedAttention):
    """Every patch attends to all patches of its own frame and of those frames that the mask allows."""

    def forward(self, x: Tensor, inputs: AttentionInput) -> Tensor:
        """(B, T, P, D) -> (B, T, P, D)."""
        num_frames = x.shape[1]
        if inputs.cache is not None:
            q, keys, values = self.update(x, inputs.cache)
            q = rearrange(q, "b t p n k -> b n (t p) k")
            out = F.scaled_dot_product_attention(q, keys, values, inputs.cache.mask)
        else:
            frames = self.frame_cos_sin(num_frames, inputs.positions)
            cos_sin = space_time_cos_sin(frames, inputs.spatial).flatten(0, 1)  # (T * P, K/2, 2)
            qkv = rearrange(self.to_qkv(x), "b t p (qkv n k) -> qkv b n (t p) k", qkv=3, n=self.num_heads)
            q, k, v = rotate(qkv, cos_sin)
            assert not isinstance(inputs.mask, str)
            out = _token_attention(q, k, v, inputs.mask)
        return self.to_out(rearrange(out, "b n (t p) k -> b t p (n k)", t=num_frames))


def rotate(qkv: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of qkv (3, ...), with q and k rotated."""
    qk, v = qkv.split((2, 1))  # the gradient of a split is one copy, that of indices is padded with zeros and added
    return *apply_rotary_emb(qk, cos_sin), v[0]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Attention of q (B, N, L, K) to k and v (B, N, S, K).

    Args:
        mask: bool, broadcasts to (B, N, L, S), True where a query attends to a key.
        causal: use a triangular mask. With an explicit mask a GPU cannot use its fastest kernel.
    """
    # On the CPU the backward pass of the fused kernel takes four to six times as long as plain matrix products.
    if q.device.type == "cpu" and torch.is_grad_enabled():
        return plain_attention(q, k, v, mask, causal)
    if len(q) > MAX_KERNEL_BATCH and q.device.type == "cuda":
        size = MAX_KERNEL_BATCH
        masks = [mask] * len(q) if mask is None or len(mask) < len(q) else mask.split(size)
        parts = zip(q.split(size), k.split(size), v.split(size), masks)
        return torch.cat([attention(q, k, v, mask, causal) for q, k, v, mask in parts])
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """`softmax(q k^T / sqrt(K)) v` (arXiv 1706.03762, eq. 1) over the last two axes."""
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).type_as(v) @ v


def token_mask(
    frame_mask: TemporalMask, num_frames: int, num_patches: int, device: torch.device, head_dim: int
) -> Tensor | BlockMask | None:
    """Mask over the tokens of T frames: all patches of a frame see the same frames.

    Returns:
        On a GPU a `BlockMask` for FlexAttention, whose kernel skips what is masked; else (T * P, T * P) bool. None if
        every frame attends to every other one.
    """
    if frame_mask is None:
        return None
    if isinstance(frame_mask, str):
        frame_mask = causal_mask(num_frames, device)
    if device.type == "cuda" and head_dim >= MIN_FLEX_HEAD_DIM:
        return block_mask(frame_mask, num_patches)
    return frame_mask.repeat_interleave(num_patches, 0).repeat_interleave(num_patches, 1)


@lru_cache(maxsize=8)
def causal_mask(num_frames: int, device: torch.device) -> Tensor:
    """(T, T) bool: each frame attends to itself and earlier ones. The same tensor in every pass, for `block_mask`."""
    with torch.inference_mode(False):  # training may need what a rollout has made
        return torch.ones(num_frames, num_frames, dtype=torch.bool, device=device).tril()


@lru_cache(maxsize=8)
def block_mask(frame_mask: Tensor, num_patches: int) -> BlockMask:
    """`token_mask` for FlexAttention (arXiv 2412.05496). It is made once for each tensor."""

    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return frame_mask[query // num_patches, key // num_patches]

    num_tokens = len(frame_mask) * num_patches
    with torch.inference_mode(False):
        return create_block_mask(attends, None, None, num_tokens, num_tokens, device=frame_mask.device.type)


def _token_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | None) -> Tensor:
    """Attention of q to k and v, all (B, N, L, K), under a mask from `token_mask`."""
    if mask is None or isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, mask)
    flex = flex_attention if torch.compiler.is_compiling() else _compiled_flex_attention()
    return flex(q, k, v, block_mask=mask)


@lru_cache
def _compiled_flex_attention():
    """Without compilation FlexAttention computes the whole matrix of scores."""
    return torch.compile(flex_attention)
