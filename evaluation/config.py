"""The options of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamrun.model.diffusion import CONTEXT_NOISE
from dreamrun.model.sampler_inputs import MAX_SEED

_SIZE_OPTIONS = ("num_clips", "num_frames", "num_states", "num_long_rollouts")
_POSITIVE_OPTIONS = (*_SIZE_OPTIONS, "num_prompt_frames", "num_steps", "batch_size")


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a checkpoint against the real game, or compare two reports."""

    checkpoint: str = ""  # required, except with compare: folder of a checkpoint, or "user/name" on the Hub
    data: Path | None = None  # data set folder with held-out play; None: collect play of the checkpoint's game
    game: str = ""  # of a checkpoint of several; none: that of the data, else the first
    output: Path = Path("report")  # folder for report.html, report.json and report.md
    split: Literal["test", "val"] | None = None  # held-out split; None: test, or val if there is no test split
    quick: bool = False  # measure less: a first impression in two minutes on two cores
    num_clips: int | None = None  # held-out clips; None: 64, or 12 with quick
    num_frames: int | None = None  # generated frames per clip; None: 64, or 16 with quick
    num_states: int | None = None  # game states for the controllability; None: 48, or 8 with quick
    num_long_rollouts: int | None = None  # long rollouts of 900 frames (90 with quick); None: 32, or 4 with quick
    # More sizes, named as in the settings of report.json: drift_frames=90 sweep_steps=1,4
    sizes: tuple[str, ...] = ()
    num_prompt_frames: int = 4  # real frames that a rollout starts from
    num_steps: int | None = None  # denoising steps per frame; None: the checkpoint's default
    # Above 1: follow actions more closely, at twice the cost per step; None: the checkpoint's default, 1 with onnx.
    guidance: float | None = None
    context_noise: float = CONTEXT_NOISE  # noise level of the context frames
    seed: int = 0  # seed of the clips, the game states and the noise
    batch_size: int = 16  # rollouts generated in parallel
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the GPU if there is one
    bf16: bool | None = None  # bfloat16 weights; None: if the device multiplies bfloat16 natively
    any_game: bool = False  # accept data of another game than the checkpoint's
    env_module: str | None = None  # Python module to import, which registers the checkpoint's or the data's gym: game
    onnx: Path | None = None  # an export of the checkpoint by scripts.export_onnx, to measure in its place
    compare: tuple[Path, Path] | None = None  # two report.json: list the metrics whose 95 % intervals do not overlap

    def __post_init__(self):
        if self.compare is None and not self.checkpoint:
            raise ValueError("give --checkpoint DIR, or two reports to --compare")
        for name in _POSITIVE_OPTIONS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if self.onnx is not None and self.guidance not in (None, 1):
            raise ValueError(f"guidance is {self.guidance}: an exported network has none")
        if self.guidance is not None and not self.guidance >= 0:
            raise ValueError(f"guidance is {self.guidance}: it must not be negative")
        if not 0.0 <= self.context_noise < 1.0:
            raise ValueError(f"context_noise is {self.context_noise}: it must be in [0, 1)")
        if not 0 <= self.seed < MAX_SEED:
            raise ValueError(f"seed is {self.seed}: it must lie in 0 to {MAX_SEED - 1}")

    def choose_sizes(self, table: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """The full or the quick size of each name, changed by the options that are set.

        Raises:
            ValueError: `sizes` holds an unknown name or no number.
        """
        sizes = {name: pair[self.quick] for name, pair in table.items()}
        for text in self.sizes:
            name, _, value = text.partition("=")
            if name not in sizes:
                raise ValueError(f"sizes has {text!r}: the names are {', '.join(sizes)}")
            is_list, (_, default) = isinstance(sizes[name], tuple), table[name]
            kind = type(default[0] if is_list else default)
            try:
                numbers = tuple(kind(number) for number in value.split(","))
            except ValueError:
                numbers = ()
            if not numbers or (not is_list and (len(numbers) > 1 or numbers[0] < 1)):
                raise ValueError(f"sizes has {text!r}: write it like drift_frames=90 or sweep_steps=1,4")
            sizes[name] = numbers if is_list else numbers[0]
        return sizes | {name: getattr(self, name) for name in _SIZE_OPTIONS if getattr(self, name) is not None}
