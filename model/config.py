"""Architecture of the network, and presets for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from dreamrun.games.ranges import Range, check_ranges
from dreamrun.model.diffusion import Prediction, Schedule

_CHOICES = {"attention": ("axial", "full"), "schedule": get_args(Schedule), "prediction": get_args(Prediction)}
NumSteps = Annotated[int, Range(1, 1000, 32)]
Guidance = Annotated[float, Range(0.0, 100.0, 8.0)]
MAX_PATCHES = 65536  # in a frame
MAX_CACHE_NUMBERS = 2**34


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a `WorldModel`. Saved as `config.json` in every checkpoint.

    The ranges end far above any real network of this kind: the config may come from a stranger, and must not make this
    program allocate all memory.
    """

    frame_height: Annotated[int, Range(1, 4096)] = 64  # pixels; a multiple of patch_size
    frame_width: Annotated[int, Range(1, 4096)] = 64  # pixels; a multiple of patch_size
    num_channels: Annotated[int, Range(1, 64)] = 3  # colour channels of a frame
    patch_size: Annotated[int, Range(1, 4096)] = 8  # pixels on a side of the square that becomes one token
    dim: Annotated[int, Range(1, 16384)] = 512  # D, width of the network
    num_blocks: Annotated[int, Range(1, 256)] = 6  # axial: a spatial and a temporal DiT block; full: a single one
    num_heads: Annotated[int, Range(1, 1024)] = 8  # N, attention heads
    window_frames: Annotated[int, Range(1, 4096)] = 32  # W, most frames that the network attends to
    num_actions: Annotated[int, Range(1, 4097)] = 15  # A, length of an action vector; names + 1 if actions are vectors
    attention: Literal["axial", "full"] = "axial"  # over space and time in turn, or over both at once
    schedule: Schedule = "sigmoid"  # of the noise: variance-preserving, or the straight line of rectified flow
    prediction: Prediction = "v"  # what the network predicts; "v" goes with "sigmoid", "velocity" with "linear"
    num_steps: NumSteps = 10  # default number of denoising steps per generated frame
    guidance: Guidance = 1.0  # default scale of classifier-free guidance in rollouts; above 1, a step takes two passes
    can_fill: bool = False  # trained to fill in missing frames too (--fill-share), which `model.fill` needs
    outcomes: bool = False  # whether it has an outcome head, which predicts reward and end
    words: bool = False  # whether it has a text encoder, and can be told in words what is played

    def __post_init__(self):
        check_ranges(self)
        for name in ("frame_height", "frame_width"):
            size = getattr(self, name)
            if size < self.patch_size or size % self.patch_size:
                raise ValueError(f"{name} is {size}: it must be a multiple of patch_size, {self.patch_size}")
        # Rotary embedding rotates pairs of numbers. Axial: half of a head by row, half by column. Full: half of it by
        # time, and a quarter each by row and by column.
        multiple = 8 if self.attention == "full" else 4
        if self.dim % self.num_heads or self.head_dim % multiple:
            raise ValueError(
                f"dim {self.dim} over {self.num_heads} heads: a head needs a multiple of {multiple} numbers"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r:.40}: choose {' or '.join(choices)}")
        if self.prediction == ("velocity" if self.schedule == "sigmoid" else "v"):
            raise ValueError(
                f"prediction {self.prediction} does not go with schedule {self.schedule}: "
                "choose v or x0 with sigmoid, velocity or x0 with linear"
            )
        for name in ("can_fill", "outcomes", "words"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r:.40}: expected true or false")
        if self.num_patches > MAX_PATCHES:
            raise ValueError(f"a frame has {self.num_patches} patches: at most {MAX_PATCHES} are possible")
        if self.cache_numbers > MAX_CACHE_NUMBERS:
            raise ValueError(
                f"the KV cache of one rollout would hold {self.cache_numbers:.1e} numbers "
                f"(blocks, window_frames, patches and dim): at most {MAX_CACHE_NUMBERS:.1e} are possible"
            )

    @property
    def head_dim(self) -> int:
        """K, numbers in an attention head."""
        return self.dim // self.num_heads

    @property
    def rotary_dim(self) -> int:
        """Numbers in a head that rotate with space, and as many with time. Full attention has one head for both."""
        return self.head_dim // 2 if self.attention == "full" else self.head_dim

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
    def cache_numbers(self) -> int:
        """Keys and values in the KV cache of one rollout."""
        return 2 * self.num_blocks * self.window_frames * self.num_patches * self.dim

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a frame."""
        return self.num_channels, self.frame_height, self.frame_width

    @property
    def input_sizes(self) -> tuple:
        """Sizes of what goes in: networks that agree in them can continue each other's rollouts."""
        return self.frame_shape, self.num_actions, self.window_frames

    @property
    def num_dit_blocks(self) -> int:
        """Pairs of an attention and an MLP."""
        return self.num_blocks if self.attention == "full" else 2 * self.num_blocks

    @property
    def num_modulation_vectors(self) -> int:
        """M, modulation vectors of the network: six in a DiT block (shift, scale and gate, twice), two at the end."""
        return 6 * self.num_dit_blocks + 2

    @property
    def flops_per_pass(self) -> float:
        """FLOPs of one forward pass over one frame that attends to a full window, with modulation vectors given.

        A multiply-add is two FLOPs. Only linear maps and attention products count.
        """
        # Multiply-adds per token. A DiT block has 12 D^2 weights: qkv 3, attention output 1, MLP 8.
        is_full, num_patches, window = self.attention == "full", self.num_patches, self.window_frames
        num_keys = num_patches * window if is_full else num_patches + window
        patches = 2 * self.patch_size**2 * self.num_channels * self.dim
        linear_maps = self.num_dit_blocks * 12 * self.dim**2 + patches
        attention = self.num_blocks * 2 * self.dim * num_keys
        return 2.0 * self.num_patches * (linear_maps + attention)

    def flops_per_frame(self, num_steps: int, guidance: float) -> float:
        """FLOPs per generated frame: one pass per denoising step, or two with guidance, and one to fill the cache.

        The last pass ends before the map to pixels.
        """
        passes_per_step = 1 if guidance == 1.0 else 2
        pixels = 2.0 * self.num_patches * self.patch_size**2 * self.num_channels * self.dim
        return (num_steps * passes_per_step + 1) * self.flops_per_pass - pixels

    def resized(self, height: int, width: int) -> ModelConfig:
        """The same network for frames of another size, in pixels, but no outcome head, which knows one size alone."""
        if (height, width) == (self.frame_height, self.frame_width):
            return self
        return replace(self, frame_height=height, frame_width=width, outcomes=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict` after a round trip through JSON."""
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown model settings: {', '.join(unknown[:8])}"[:200])
        try:
            return cls(**values)
        except (TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"bad model settings: {error}") from None


_SMALL = ModelConfig()
_NANO = ModelConfig(dim=256, num_blocks=4, num_heads=4, window_frames=16, prediction="x0", num_steps=4)

# The comments give the number of parameters.
PRESETS: dict[str, ModelConfig] = {
    # For two CPU cores.
    "pico": replace(_NANO, dim=128),  # 2.51 M
    "nano": _NANO,  # 9.83 M
    # The published CoinRun networks: model/open_oasis.py loads their checkpoints.
    "small": _SMALL,  # 57.82 M
    "base": replace(_SMALL, dim=640, num_blocks=8),  # 119.74 M
    # The size and the choices of toy-wm, a model of Pong: rectified flow, attention over space and time at once.
    "toy": ModelConfig(
        dim=320,
        num_blocks=8,
        num_heads=20,
        window_frames=30,
        attention="full",
        schedule="linear",
        prediction="velocity",
    ),
}
