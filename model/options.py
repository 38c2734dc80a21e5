"""Options that many commands share: the checkpoint, and how its frames are sampled. A command's option class inherits
the parts that it needs, so that an option has one name, one default, one range and one help text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, Protocol, get_type_hints

from dreamrun.games.game import check_caption
from dreamrun.model.diffusion import CONTEXT_NOISE


class Range(NamedTuple):
    """Least and largest value of an option. Those of an integer are ints, and allow no other numbers."""

    low: float
    high: float
    high_in_play: float  # the largest value that a player of a server may ask for

    def check(self, name: str, value: Any, in_play: bool = False) -> None:
        """Raises ValueError unless a value is a number in the range."""
        types, high = (int,) if isinstance(self.low, int) else (int, float), self.high_in_play if in_play else self.high
        if type(value) not in types or not self.low <= value <= high:  # false for NaN
            kind = "an integer" if types == (int,) else "a number"
            raise ValueError(f"{name} is {value!r:.40}: expected {kind} from {self.low} to {high}")


class Defaults(Protocol):
    """The default settings of a checkpoint, which `ModelConfig` has."""

    @property
    def num_steps(self) -> int: ...

    @property
    def guidance(self) -> float: ...


@dataclass(frozen=True, order=True)
class SamplerSettings:
    """How frames are sampled. Option classes of commands inherit it."""

    num_steps: Annotated[int | None, Range(1, 1000, 32)] = None  # denoising steps per frame; None: the checkpoint's
    # Classifier-free guidance scale; above 1 follows actions and text more closely, at twice the cost; None: the
    # checkpoint's.
    guidance: Annotated[float | None, Range(0.0, 100.0, 8.0)] = None
    context_noise: Annotated[float, Range(0.0, 0.999, 0.999)] = CONTEXT_NOISE  # noise level of the context frames
    seed: Annotated[int, Range(0, 2**63 - 1, 2**31 - 1)] = 0  # of the noise
    text: str | None = None  # what to dream of, if the checkpoint has learnt any words; None: the game's caption

    def __post_init__(self):
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if value is not None or isinstance(self, ResolvedSettings):
                allowed.check(name, value)
        if self.text is not None:
            check_caption(self.text, "text")

    def resolve(self, config: Defaults) -> ResolvedSettings:
        """These settings alone, with the defaults of a checkpoint in place of None."""
        values = {field.name: getattr(self, field.name) for field in fields(SamplerSettings)}
        defaults = {name: getattr(config, name) for name in ("num_steps", "guidance") if values[name] is None}
        return ResolvedSettings(**values | defaults)

    def check_in_play(self) -> None:
        """Raises ValueError for settings that are too costly for a server."""
        for name, allowed in RANGES.items():
            if getattr(self, name) is not None:
                allowed.check(name, getattr(self, name), in_play=True)


RANGES: dict[str, Range] = {
    name: part
    for name, hint in get_type_hints(SamplerSettings, include_extras=True).items()
    for part in getattr(hint, "__metadata__", ())
}


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
