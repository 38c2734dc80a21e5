"""Options that many commands share: the checkpoint, and how its frames are sampled. A command's option class inherits
the parts that it needs, so that an option has one name, one default, one range and one help text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from dreamrun.games.game import check_caption
from dreamrun.games.ranges import Range, check_ranges, ranges_of
from dreamrun.model.config import Guidance, ModelConfig, NumSteps
from dreamrun.model.diffusion import CONTEXT_NOISE


@dataclass(frozen=True, order=True)
class SamplerSettings:
    """How frames are sampled. Option classes of commands inherit it."""

    num_steps: NumSteps | None = None  # denoising steps per frame; None: the checkpoint's
    # Classifier-free guidance scale; above 1 follows actions and text more closely, at twice the cost; None: the
    # checkpoint's.
    guidance: Guidance | None = None
    context_noise: Annotated[float, Range(0.0, 0.999, 0.999)] = CONTEXT_NOISE  # noise level of the context frames
    seed: Annotated[int, Range(0, 2**63 - 1, 2**31 - 1)] = 0  # of the noise
    text: str | None = None  # what to dream of, if the checkpoint has learnt any words; None: the game's caption

    def __post_init__(self):
        check_ranges(self)
        if self.text is not None:
            check_caption(self.text, "text")

    def resolve(self, config: ModelConfig) -> ResolvedSettings:
        """These settings alone, with the defaults of a checkpoint in place of None."""
        values = {field.name: getattr(self, field.name) for field in fields(SamplerSettings)}
        defaults = {name: getattr(config, name) for name in ("num_steps", "guidance") if values[name] is None}
        return ResolvedSettings(**values | defaults)


RANGES = ranges_of(SamplerSettings)


@dataclass(frozen=True, order=True)
class ResolvedSettings(SamplerSettings):
    """Settings without a None but for the text."""

    num_steps: int
    guidance: float

    def __str__(self) -> str:
        return f"{self.num_steps} steps, guidance {self.guidance:g}, noise {self.context_noise:g}"

    def to_dict(self, text_name: str = "text") -> dict[str, Any]:
        """Plain values for JSON. The text is left out if there is none."""
        values = asdict(self)
        text = values.pop("text")
        return values if text is None else values | {text_name: text}


@dataclass(frozen=True)
class DeviceOptions:
    """Where a network runs, and how."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: the GPU if there is one
    bf16: bool | None = None  # bfloat16 weights; None: if the device multiplies bfloat16 natively


@dataclass(frozen=True)
class CheckpointOptions(DeviceOptions):
    """A checkpoint, and which of its games."""

    checkpoint: str = "checkpoints/coinrun-nano"  # checkpoint folder, or user/name on the Hub
    game: str = ""  # of a checkpoint of several; none: that of the data, else the first
    any_game: bool = False  # accept data of another game than the checkpoint's
