"""Architecture of the network, and the presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from model.game_info import dataclass_from_json


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a `WorldModel`. Saved as `config.json` in every checkpoint."""

    frame_height: int = 64  # pixels; a multiple of patch_size
    frame_width: int = 64  # pixels; a multiple of patch_size
    num_channels: int = 3  # colour channels of a frame
    patch_size: int = 8  # pixels on a side of the square that becomes one token
    dim: int = 512  # D, width of the network
    num_blocks: int = 6  # each is a spatial half, then a temporal half
    num_heads: int = 8  # N, attention heads
    window_frames: int = 32  # the most frames the network sees at once
    num_actions: int = 15  # A, length of an action vector; with buttons and axes one more than their names
    prediction: Literal["v", "x0"] = "v"  # what the network puts out
    num_steps: int = 10  # denoising steps a frame that its dreams are made with, unless told otherwise

    def __post_init__(self):
        for name in ("frame_height", "frame_width"):
            size = getattr(self, name)
            if size < self.patch_size or size % self.patch_size:
                raise ValueError(f"{name} is {size}: it must be a multiple of patch_size, {self.patch_size}")
        # Spatial rotary embedding gives half of a head to rows and half to columns, in pairs.
        if self.dim % self.num_heads or self.head_dim % 4:
            raise ValueError(f"dim {self.dim} over {self.num_heads} heads: a head needs a multiple of 4 numbers")
        if self.prediction not in ("v", "x0"):
            raise ValueError(f'prediction is {self.prediction!r}: choose "v" or "x0"')
        for name in ("num_channels", "num_blocks", "window_frames", "num_actions", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")

    @property
    def head_dim(self) -> int:
        """K, numbers in an attention head."""
        return self.dim // self.num_heads

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in a frame."""
        return self.frame_height // self.patch_size, self.frame_width // self.patch_size

    @property
    def num_patches(self) -> int:
        """P, tokens in a frame."""
        rows, columns = self.grid
        return rows * columns

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a frame."""
        return self.num_channels, self.frame_height, self.frame_width

    @property
    def flops_per_pass(self) -> float:
        """Floating-point operations of one run over one frame that looks back at a full window, modulations given."""
        maps = self.num_blocks * 24 * self.dim**2 + 2 * self.patch_size**2 * self.num_channels * self.dim
        attention = self.num_blocks * 2 * self.dim * (self.num_patches + self.window_frames)
        return 2.0 * self.num_patches * (maps + attention)

    def flops_per_frame(self, num_steps: int, guidance: float) -> float:
        """Of a dreamt frame: a step is a run, or two if guided; and the frame is run on once more, for the cache."""
        return (num_steps * (1 if guidance == 1.0 else 2) + 1) * self.flops_per_pass

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict` after a round through JSON, which turns tuples into lists.

        Raises:
            ValueError: an unknown field (a checkpoint of another program or a newer version), or a bad value.
        """
        return dataclass_from_json(cls, values, "model settings")


_SMALL = ModelConfig()
_NANO = ModelConfig(dim=256, num_blocks=4, num_heads=4, window_frames=16, prediction="x0", num_steps=4)

# Parameter counts as `sum(p.numel() for p in WorldModel(config).parameters())` gives them.
PRESETS: dict[str, ModelConfig] = {
    # Made for two CPU cores.
    "pico": replace(_NANO, dim=128),  # 2.51 M
    "nano": _NANO,  # 9.83 M
    # The published CoinRun networks: their checkpoints load here and give the same numbers.
    "small": _SMALL,  # 57.82 M
    "base": replace(_SMALL, dim=640, num_blocks=8),  # 119.74 M
}
