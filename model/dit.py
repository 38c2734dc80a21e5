"""The network: a diffusion transformer in pixel space with attention over space and time, axial or full.

Shapes: B batch, T frames, C channels, H x W pixels, P patches in a frame, D width, A action vector,
M modulation vectors.
The layout is that of open-oasis (MIT), so its checkpoints give the same numbers here. DiT is arXiv 2212.09748.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from dreamrun.games.game import Game
from dreamrun.model.attention import (
    Attention,
    AttentionInput,
    FullAttention,
    SpatialAttention,
    TemporalAttention,
    TemporalMask,
    token_mask,
)
from dreamrun.model.checkpoint import PretrainedModule
from dreamrun.model.config import ModelConfig
from dreamrun.model.kv_cache import CacheView
from dreamrun.model.outcome_head import OutcomeHead
from dreamrun.model.rotary import RotaryTable, SpatialTables, temporal_cos_sin
from dreamrun.model.text_encoder import TextEncoder


def activation_checkpoint(function: Callable[..., Tensor], *inputs) -> Tensor:
    """Return `function(*inputs)`. Only the inputs are saved; the backward pass calls the function again.

    The second call stops at the last tensor that the backward pass needs, so a final linear map is not computed twice.
    """
    # The network has no dropout, so there is no random state to restore.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def selective_checkpoint(function: Callable[..., Tensor], *inputs) -> Tensor:
    """`activation_checkpoint` on a GPU, for operations that are cheap there. It saves 30 % of a block's activations.

    On a CPU it only calls the function: memory is plentiful there, GELU is slow, and a training step would take 8 %
    longer. Under torch.compile it only calls the function too: the compiler decides what to compute again.
    """
    if inputs[0].device.type == "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*inputs)
    return activation_checkpoint(function, *inputs)


def timestep(noise_level: Tensor) -> Tensor:
    """The network's input for noise level u in [0, 1]: `1000 u - 1`, the integer timestep of a 1000-step model."""
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
        return self.mlp(sinusoid.to(self.mlp.get_parameter("0.weight").dtype))


class AdaLNModulation(nn.Sequential):
    """Condition c -> M vectors that shift, scale and gate activations (adaLN-Zero, arXiv 2212.09748, section 3.2)."""

    def __init__(self, dim: int, num_vectors: int):
        super().__init__(nn.SiLU(), nn.Linear(dim, num_vectors * dim))
        self.num_vectors = num_vectors

    def forward(self, c: Tensor) -> Tensor:
        """(..., D) -> (..., M, D)."""
        return rearrange(super().forward(c), "... (m d) -> ... m d", m=self.num_vectors)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`LN(x) (1 + scale) + shift`; the LayerNorm has no weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def gelu(x: Tensor) -> Tensor:
    """`x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (arXiv 1606.08415, section 2)."""
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        # (1 + tanh z) / 2 = sigmoid(2 z), whose compiled code is faster than that of tanh.
        wide = x.float()
        return (wide * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))).type_as(x)
    return F.gelu(x, approximate="tanh")


class MLP(nn.Module):
    """D -> 4 D -> GELU (tanh) -> D."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return selective_checkpoint(lambda hidden: self.fc2(gelu(hidden)), self.fc1(x))


class DiTBlock(nn.Module):
    """Attention, then an MLP. Both are modulated by the condition and gated into the residual stream."""

    def __init__(self, attention: Attention, dim: int):
        super().__init__()
        self.attention = attention
        self.mlp = MLP(dim)
        self.modulation = AdaLNModulation(dim, num_vectors=6)

    def forward(self, x: Tensor, vectors: Tensor, inputs: AttentionInput) -> Tensor:
        """x (B, T, P, D), modulation vectors (B, T, 6, D) -> (B, T, P, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors.unsqueeze(2).unbind(-2)
        x = x + gate_a * self.attention(selective_checkpoint(modulate, x, shift_a, scale_a), inputs)
        return x + gate_m * self.mlp(selective_checkpoint(modulate, x, shift_m, scale_m))


class Block(nn.Module):
    """A spatial DiT block, then a temporal one; or a single one, whose attention is full."""

    def __init__(self, config: ModelConfig, index: int, rotary: RotaryTable):
        super().__init__()
        dim, num_heads = config.dim, config.num_heads
        if config.attention == "full":
            self.full = DiTBlock(FullAttention(dim, num_heads, rotary, index), dim)
            self.parts: tuple[DiTBlock, ...] = (self.full,)
        else:
            self.spatial = DiTBlock(SpatialAttention(dim, num_heads), dim)
            self.temporal = DiTBlock(TemporalAttention(dim, num_heads, rotary, index), dim)
            self.parts = (self.spatial, self.temporal)

    def modulations(self, c: Tensor) -> Tensor:
        """(..., D) -> (..., 6 parts, D)."""
        return torch.cat([part.modulation(c) for part in self.parts], dim=-2)

    def forward(self, x: Tensor, vectors: Tensor, inputs: AttentionInput) -> Tensor:
        """x (B, T, P, D), modulation vectors (B, T, 6 parts, D) -> (B, T, P, D)."""
        for part, part_vectors in zip(self.parts, vectors.split(6, dim=-2), strict=True):
            x = part(x, part_vectors, inputs)
        return x


class FinalLayer(nn.Module):
    """`LN(x) (1 + scale) + shift`, then a linear map to the pixels of each patch."""

    def __init__(self, dim: int, numbers_per_patch: int):
        super().__init__()
        self.linear = nn.Linear(dim, numbers_per_patch)
        self.modulation = AdaLNModulation(dim, num_vectors=2)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """x (B, T, P, D), modulation vectors (B, T, 2, D) -> (B, T, P, numbers_per_patch)."""
        shift, scale = vectors.unsqueeze(2).unbind(-2)
        return self.linear(modulate(x, shift, scale))


class WorldModel(PretrainedModule):
    """(noisy frames, noise level of each frame, actions) -> v or x0 of each frame.

    `save_pretrained(folder)` writes a checkpoint, and `WorldModel.from_pretrained(folder or "user/name")` reads one.
    """

    words: Tensor | None  # (D,), of the text that a view is told at every frame (`text.with_text`)

    def __init__(self, config: ModelConfig, game: Game | None = None):
        super().__init__(config, game)
        self.activation_checkpointing = False  # in training, save only the input of each block
        patch, dim = config.patch_size, config.dim
        self.patch_embedding = nn.Conv2d(config.num_channels, dim, kernel_size=patch, stride=patch)
        self.noise_level_embedding = NoiseLevelEmbedding(dim)
        self.action_embedding = nn.Linear(config.num_actions, dim)
        # All blocks share these tables.
        self._spatial_tables = SpatialTables(config.rotary_dim)
        rotary = RotaryTable(temporal_cos_sin(config.rotary_dim, config.window_frames))
        self.blocks = nn.ModuleList(Block(config, index, rotary) for index in range(config.num_blocks))
        self.final_layer = FinalLayer(dim, patch * patch * config.num_channels)
        self.outcome_head = OutcomeHead(dim, config.num_patches, config.num_actions) if config.outcomes else None
        self.text_encoder = TextEncoder(dim) if config.words else None
        self.register_buffer("words", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initialisation. Until trained, the network's output is exactly zero for every input."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name in ("0.weight", "2.weight"):
            nn.init.normal_(self.noise_level_embedding.mlp.get_parameter(name), std=0.02)
        for module in self.modules():
            if isinstance(module, AdaLNModulation):
                nn.init.zeros_(module.get_parameter("1.weight"))
        nn.init.zeros_(self.final_layer.linear.weight)
        if self.outcome_head is not None:
            self.outcome_head.reset_parameters()
        if self.text_encoder is not None:
            self.text_encoder.reset_parameters()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.action_embedding.weight.device

    def patchify(self, frames: Tensor) -> Tensor:
        """(B, T, C, H, W) -> embedded patches (B, T, P, D), row by row."""
        conv, patch = self.patch_embedding, self.config.patch_size
        patches = rearrange(frames.to(conv.weight.dtype), "b t c (h p) (w q) -> b t (h w) (c p q)", p=patch, q=patch)
        # A convolution whose stride is its kernel size is a linear map of patches, which is faster.
        return F.linear(patches, conv.weight.flatten(1), conv.bias)

    def unpatchify(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, P, patch * patch * C), each patch laid out (row, column, channel) -> (B, T, C, H, W) float32."""
        (rows, columns), patch = grid, self.config.patch_size
        return rearrange(patches.float(), "b t (h w) (p q c) -> b t c (h p) (w q)", h=rows, w=columns, p=patch, q=patch)

    def condition(self, noise_level: Tensor, actions: Tensor, words: Tensor | None = None) -> Tensor:
        """(B, T) levels, (B, T, A) actions, words that broadcast to (B, T, D) -> (B, T, D)."""
        weight = self.action_embedding.weight
        c = self.noise_level_embedding(noise_level) + self.action_embedding(actions.to(weight.dtype))
        return c if words is None else c + words

    def forward(
        self,
        frames: Tensor,
        noise_level: Tensor,
        actions: Tensor,
        temporal_mask: TemporalMask = "causal",
        positions: Tensor | None = None,
        text: Tensor | None = None,
        with_tokens: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predict v or x0, according to `config.prediction`.

        Frames may have another size than `config` names, with sides that are multiples of the patch.

        Args:
            frames: (B, T, C, H, W) float, noised to `noise_level`; without `positions` T is at most `window_frames`.
            noise_level: (B, T) float in [0, 1], one for each frame.
            actions: (B, T, A) float; `actions[:, t]` leads into frame t, zeros where no action is known.
            temporal_mask: which frames a frame attends to. "causal": to itself and earlier ones, as in play. None: to
                all, as in filling in. (T, T) bool: True where frame `row` attends to frame `column`.
            positions: (T,) int64, position of each frame in time, below `config.window_frames`; None: 0 to T - 1.
            text: (B, L) uint8, of each clip, from `text_encoder.encode_bytes`; None: that of the view.
            with_tokens: return also the tokens of the last block, (B, T, P, D), for `outcome_logits`.

        Returns:
            (B, T, C, H, W) float32.
        """
        batch, num_frames = frames.shape[:2]
        grid = self._grid(frames)
        assert noise_level.shape == (batch, num_frames), f"noise_level {tuple(noise_level.shape)}"
        assert actions.shape == (batch, num_frames, self.config.num_actions), f"actions {tuple(actions.shape)}"
        words = self.words
        if text is not None:
            assert self.text_encoder is not None
            words = self.text_encoder(text)[:, None]  # the same words for all frames of a clip
        x, c = self.patchify(frames), self.condition(noise_level, actions, words)
        spatial = self._spatial_tables(grid, x.device)
        mask: TemporalMask | BlockMask = temporal_mask
        if self.config.attention == "full":
            mask = token_mask(temporal_mask, num_frames, len(spatial), frames.device, self.config.head_dim)
        inputs = AttentionInput(spatial, mask, positions)
        checkpointing = self.activation_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            assert isinstance(block, Block)
            arguments = x, block.modulations(c), inputs
            x = activation_checkpoint(block, *arguments) if checkpointing else block(*arguments)
        prediction = self.unpatchify(self.final_layer(x, self.final_layer.modulation(c)), grid)
        return (prediction, x) if with_tokens else prediction

    def outcome_logits(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """The outcome head: tokens of finished frames (..., P, D), and actions (..., A) taken at them -> (..., K + 1).

        It passes no gradient on to the network: frames are as good as without a head.
        """
        assert self.outcome_head is not None
        return self.outcome_head(tokens.detach(), actions)

    def modulations(self, noise_level: Tensor, actions: Tensor) -> Tensor:
        """All modulation vectors: (B, T) levels, (B, T, A) actions -> (B, T, M, D)."""
        c = self.condition(noise_level, actions, self.words)
        vectors = []
        for block in self.blocks:
            assert isinstance(block, Block)
            vectors.append(block.modulations(c))
        return torch.cat([*vectors, self.final_layer.modulation(c)], dim=-2)

    def forward_cached(self, frames: Tensor, modulations: Tensor, cache: CacheView) -> Tensor:
        """`forward` for frames that come after those in a KV cache. Writes their keys and values to it.

        Args:
            frames: (B, T, C, H, W) float.
            modulations: (B, T, M, D) for the frames' noise levels and actions.
            cache: view of the slots of these B rollouts, for T frames.

        Returns:
            (B, T, C, H, W) float32.
        """
        tokens = self.tokens_cached(frames, modulations, cache)
        return self.unpatchify(self.final_layer(tokens, modulations[..., -2:, :]), self._grid(frames))

    def tokens_cached(self, frames: Tensor, modulations: Tensor, cache: CacheView) -> Tensor:
        """`forward_cached` up to the last block: the frames' tokens (B, T, P, D)."""
        x = self.patchify(frames)
        inputs = AttentionInput(self._spatial_tables(self._grid(frames), frames.device), cache=cache)
        for block in self.blocks:
            assert isinstance(block, Block)
            vectors, modulations = modulations.tensor_split((6 * len(block.parts),), dim=-2)
            x = block(x, vectors, inputs)
        return x

    def _grid(self, frames: Tensor) -> tuple[int, int]:
        """Rows and columns of patches in frames (B, T, C, H, W)."""
        channels, *sides = frames.shape[2:]
        patch = self.config.patch_size
        assert channels == self.config.num_channels and not any(side % patch for side in sides), tuple(frames.shape)
        return sides[0] // patch, sides[1] // patch
