"""Rotary position embedding (RoFormer, arXiv 2104.09864) over the patches of a frame and over frames.

Shapes: P patches in a frame, K head dim. A table holds the cosine and sine of each angle: (positions, K/2, 2).
"""

import torch
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor, nn


def spatial_cos_sin(head_dim: int, grid: tuple[int, int]) -> Tensor:
    """Axial "pixel" frequencies over (rows, columns), half a head each, max_freq 256: float32 (P, K/2, 2)."""
    angles = RotaryEmbedding(dim=head_dim // 2, freqs_for="pixel", max_freq=256).get_axial_freqs(*grid)
    return _cos_sin(angles.reshape(-1, head_dim))


def temporal_cos_sin(head_dim: int, num_positions: int) -> Tensor:
    """Frequencies with theta 10000 over frames: float32 (positions, K/2, 2)."""
    rotary = RotaryEmbedding(dim=head_dim, cache_if_possible=False)
    return _cos_sin(rotary(torch.arange(num_positions, dtype=torch.float32)))


def space_time_cos_sin(temporal: Tensor, spatial: Tensor) -> Tensor:
    """Tables for full attention: (..., T, Kt/2, 2) of frames and (P, Ks/2, 2) of patches -> (..., T, P, K/2, 2).

    The first Kt numbers of a head rotate with time, the other Ks with row and column; K = Kt + Ks.
    """
    shape = (*temporal.shape[:-2], spatial.shape[0])
    temporal = temporal.unsqueeze(-3).expand(*shape, -1, -1)
    return torch.cat((temporal, spatial.expand(*shape, -1, -1)), dim=-2)


def _cos_sin(angles: Tensor) -> Tensor:
    """Angles (positions, K) in radians -> (positions, K/2, 2). The library repeats each angle for both of a pair."""
    angles = angles.detach()[:, ::2]
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def apply_rotary_emb(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate each pair of numbers in x (..., K) by its angle; cos_sin broadcasts to (..., K/2, 2).

    The rotation is in float32; the result has the dtype of x.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    # The complex product is six times as fast on a CPU, but torch.compile generates no code for complex numbers.
    if torch.compiler.is_compiling():
        return apply_rotary_emb_real(pairs, cos_sin).flatten(-2).type_as(x)
    product = torch.view_as_complex(pairs) * torch.view_as_complex(cos_sin)
    return torch.view_as_real(product).flatten(-2).type_as(x)


def apply_rotary_emb_real(pairs: Tensor, cos_sin: Tensor) -> Tensor:
    """`(a cos - b sin, a sin + b cos)` for pairs (..., 2) and their cos_sin (..., 2)."""
    (a, b), (cos, sin) = pairs.unbind(-1), cos_sin.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)


class SpatialTables:
    """`spatial_cos_sin` of any grid of patches, on any device. A table is made when it is first needed."""

    def __init__(self, rotary_dim: int):
        self._rotary_dim = rotary_dim
        self._tables: dict[tuple[tuple[int, int], torch.device], Tensor] = {}

    def __call__(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """(rows, columns) -> float32 (P, K/2, 2)."""
        if (grid, device) not in self._tables:
            with torch.inference_mode(False):  # training may need what a rollout has made
                self._tables[grid, device] = spatial_cos_sin(self._rotary_dim, grid).to(device)
        return self._tables[grid, device]


class RotaryTable(nn.Module):
    """A float32 table of cosines and sines, (positions, K/2, 2), as a buffer outside the state dict."""

    cos_sin: Tensor

    def __init__(self, cos_sin: Tensor):
        super().__init__()
        self.register_buffer("cos_sin", cos_sin, persistent=False)

    def _apply(self, fn, recurse=True):
        """Follow the module to its device, but stay float32: bfloat16 would round the angles."""
        cos_sin, self.cos_sin = self.cos_sin, self.cos_sin[:0]
        super()._apply(fn, recurse)
        self.cos_sin = cos_sin.to(self.cos_sin.device)
        return self
