"""The network: an axial spatial/temporal diffusion transformer in pixel space.

Shapes: B batch, T frames, C channels, H x W pixels, P patches in a frame, D width, A action vector.
The layout of open-oasis (MIT), so that its checkpoints give the same numbers here; DiT is arXiv 2212.09748.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import SpatialAttention, TemporalAttention
from model.checkpoint import CheckpointMixin
from model.config import ModelConfig
from model.game_info import GameInfo
from model.kv_cache import CacheView
from model.rotary import RotaryTable, spatial_cos_sin, temporal_cos_sin


def timestep(noise_level: Tensor) -> Tensor:
    """What the network is told of a noise level u in [0, 1]: `1000 u - 1`, a 1000-step model's integer timestep."""
    return 1000.0 * noise_level.float() - 1.0


class NoiseLevelEmbedding(nn.Module):
    """Sinusoid of 256 numbers (cosines first) -> D -> SiLU -> D."""

    num_frequencies = 128

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * self.num_frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, noise_level: Tensor) -> Tensor:
        """(...) levels in [0, 1] -> (..., D)."""
        index = torch.arange(self.num_frequencies, dtype=torch.float32, device=noise_level.device)
        angles = timestep(noise_level)[..., None] * torch.exp(index * (-math.log(10000.0) / self.num_frequencies))
        sinusoid = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.mlp(sinusoid.to(self.mlp[0].weight.dtype))


class Modulation(nn.Sequential):
    """Condition c -> the M vectors that shift, scale and gate (adaLN-Zero, arXiv 2212.09748)."""

    def __init__(self, dim: int, num_vectors: int):
        super().__init__(nn.SiLU(), nn.Linear(dim, num_vectors * dim))
        self.num_vectors = num_vectors

    def forward(self, c: Tensor) -> Tensor:
        """(..., D) -> (..., M, D)."""
        return super().forward(c).unflatten(-1, (self.num_vectors, -1))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`LN(x) (1 + scale) + shift`; the LayerNorm has no weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def activation_checkpoint(function: Callable[..., Tensor], *inputs) -> Tensor:
    """`function(*inputs)`, of which nothing is kept but the inputs: the backward pass calls it again.

    The second call ends with the last thing that the backward pass needs, so a linear map at the end is not done twice.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)  # nothing here is random


def selective_checkpoint(function: Callable[..., Tensor], *inputs) -> Tensor:
    """`recomputed` on a GPU, for what costs next to nothing there: three tenths of what a block keeps.

    On a CPU, whose memory is plenty, its slow GELU would make a step 8 % longer. torch.compile chooses by itself.
    """
    if inputs[0].device.type == "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*inputs)
    return activation_checkpoint(function, *inputs)


class MLP(nn.Module):
    """D -> 4 D -> GELU (tanh) -> D."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return selective_checkpoint(self._out, self.fc1(x))

    def _out(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(hidden, approximate="tanh"))


class DiTBlock(nn.Module):
    """Attention along one axis, then an MLP, each modulated by the condition and gated onto the residual stream."""

    def __init__(self, attention: SpatialAttention | TemporalAttention, dim: int):
        super().__init__()
        self.attention = attention
        self.mlp = MLP(dim)
        self.modulation = Modulation(dim, 6)

    def forward(self, x: Tensor, vectors: Tensor, attention: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """x (B, T, P, D), vectors (B, T, 6, D) of the modulation -> (B, T, P, D).

        `attention` stands in for this half's own, with the same weights: over a cache, say.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors.unsqueeze(2).unbind(-2)
        x = x + gate_a * (attention or self.attention)(selective_checkpoint(modulate, x, shift_a, scale_a))
        return x + gate_m * self.mlp(selective_checkpoint(modulate, x, shift_m, scale_m))


class SpatioTemporalBlock(nn.Module):
    """A spatial half, then a temporal half, each with weights of its own."""

    def __init__(self, spatial: DiTBlock, temporal: DiTBlock):
        super().__init__()
        self.spatial = spatial
        self.temporal = temporal

    def modulations(self, c: Tensor) -> Tensor:
        """(..., D) -> (..., 12, D)."""
        return torch.cat((self.spatial.modulation(c), self.temporal.modulation(c)), dim=-2)

    def forward(self, x: Tensor, vectors: Tensor, temporal_attention: Callable[[Tensor], Tensor]) -> Tensor:
        """x (B, T, P, D), vectors (B, T, 12, D) of `modulations` -> (B, T, P, D)."""
        x = self.spatial(x, vectors[..., :6, :])
        return self.temporal(x, vectors[..., 6:, :], temporal_attention)


class FinalLayer(nn.Module):
    """`LN(x) (1 + scale) + shift`, then a linear map to the pixels of each patch."""

    def __init__(self, dim: int, patch_numbers: int):
        super().__init__()
        self.linear = nn.Linear(dim, patch_numbers)
        self.modulation = Modulation(dim, 2)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """x (B, T, P, D), vectors (B, T, 2, D) of the modulation -> (B, T, P, patch_numbers)."""
        return self.linear(modulate(x, *vectors.unsqueeze(2).unbind(-2)))


class WorldModel(nn.Module, CheckpointMixin):
    """(noisy frames, noise level of each, actions) -> v or x0 of each frame, causal in time.

    `save_pretrained(dir)` writes `config.json` and `model.safetensors`; `WorldModel.from_pretrained(dir or
    "user/name")` reads them back, strictly.
    """

    def __init__(self, config: ModelConfig, game: GameInfo | None = None):
        super().__init__()
        self.config = config
        self.game = game or GameInfo()  # not used by the network: a checkpoint carries it
        self.activation_checkpointing = (
            False  # in training, keep of each block its input alone, and run it again for the gradient
        )
        patch, dim = config.patch_size, config.dim
        self.patch_embedding = nn.Conv2d(config.num_channels, dim, kernel_size=patch, stride=patch)
        self.noise_level_embedding = NoiseLevelEmbedding(dim)
        self.action_embedding = nn.Linear(config.num_actions, dim)
        # One table of each serves all blocks.
        spatial_table = RotaryTable(spatial_cos_sin(config.head_dim, config.grid))
        temporal_table = RotaryTable(temporal_cos_sin(config.head_dim, config.window_frames))
        self.blocks = nn.ModuleList(
            SpatioTemporalBlock(
                DiTBlock(SpatialAttention(dim, config.num_heads, spatial_table), dim),
                DiTBlock(TemporalAttention(dim, config.num_heads, temporal_table), dim),
            )
            for _ in range(config.num_blocks)
        )
        self.final_layer = FinalLayer(dim, patch * patch * config.num_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialisation. Its output is exactly zero, whatever goes in, until trained."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for linear in (self.noise_level_embedding.mlp[0], self.noise_level_embedding.mlp[2]):
            nn.init.normal_(linear.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.action_embedding.weight.device

    def patchify(self, frames: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, T, P, D), patches row by row."""
        # A convolution whose kernel is its stride is a linear map of patches, and faster as one.
        conv, (rows, columns), patch = self.patch_embedding, self.config.grid, self.config.patch_size
        grid = frames.to(conv.weight.dtype).unflatten(-1, (columns, patch)).unflatten(-3, (rows, patch))
        # (B, T, C, rows, row in patch, columns, column in patch) -> (B, T, rows, columns, C, row, column)
        patches = grid.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
        return F.linear(patches, conv.weight.flatten(1), conv.bias)

    def condition(self, noise_level: Tensor, actions: Tensor) -> Tensor:
        """(B, T) levels, (B, T, A) actions -> (B, T, D)."""
        weight = self.action_embedding.weight
        return self.noise_level_embedding(noise_level) + self.action_embedding(actions.to(weight.dtype))

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(B, T, P, patch * patch * C), each laid out (row, column, channel) -> (B, T, C, H, W) float32."""
        rows, columns = self.config.grid
        patch = self.config.patch_size
        grid = patches.float().unflatten(-1, (patch, patch, -1)).unflatten(2, (rows, columns))
        # (B, T, rows, columns, row in patch, column in patch, C) -> (B, T, C, rows, row, columns, column)
        return grid.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def forward(
        self,
        frames: Tensor,
        noise_level: Tensor,
        actions: Tensor,
        temporal_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Predict v or x0, as `config.prediction` says.

        Args:
            frames: (B, T, C, H, W) float, noised to `noise_level`; T at most `config.window_frames`, or `positions`.
            noise_level: (B, T) float in [0, 1], one for each frame.
            actions: (B, T, A) float; `actions[:, t]` leads into frame t, zeros where no action is known.
            temporal_mask: (T, T) bool, True where frame `row` may look at frame `column`; causal when None.
            positions: (T,) int64, place of each frame in time, below `config.window_frames`; as they come when None.

        Returns:
            (B, T, C, H, W) float32.
        """
        batch, num_frames = frames.shape[:2]
        assert frames.shape[2:] == self.config.frame_shape, f"frames {tuple(frames.shape)}"
        assert noise_level.shape == (batch, num_frames), f"noise_level {tuple(noise_level.shape)}"
        assert actions.shape == (batch, num_frames, self.config.num_actions), f"actions {tuple(actions.shape)}"
        x, c = self.patchify(frames), self.condition(noise_level, actions)
        checkpointing = self.activation_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            look_back = partial(block.temporal.attention, mask=temporal_mask, positions=positions)
            run = partial(block, temporal_attention=look_back)
            vectors = block.modulations(c)
            x = activation_checkpoint(run, x, vectors) if checkpointing else run(x, vectors)
        return self.unpatchify(self.final_layer(x, self.final_layer.modulation(c)))

    def modulations(self, noise_level: Tensor, actions: Tensor) -> Tensor:
        """All that the network makes of the condition: (B, T) levels, (B, T, A) actions -> (B, T, 12 blocks + 2, D)."""
        c = self.condition(noise_level, actions)
        return torch.cat([*(block.modulations(c) for block in self.blocks), self.final_layer.modulation(c)], dim=-2)

    def forward_cached(self, frames: Tensor, modulations: Tensor, cache: CacheView) -> Tensor:
        """`forward` for frames that come after those of a cache, into which their keys and values are written.

        Args:
            frames: (B, T, C, H, W) float.
            modulations: (B, T, 12 blocks + 2, D), those of the frames' noise levels and actions.
            cache: of the same B dreams, begun for T frames.

        Returns:
            (B, T, C, H, W) float32.
        """
        x = self.patchify(frames)
        for number, block in enumerate(self.blocks):
            vectors = modulations[..., 12 * number : 12 * (number + 1), :]
            x = block(x, vectors, partial(block.temporal.attention.forward_cached, block=number, cache=cache))
        return self.unpatchify(self.final_layer(x, modulations[..., -2:, :]))
