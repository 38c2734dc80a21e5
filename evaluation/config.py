"""The options of an evaluation, and how much it measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dreamrun.model.diffusion import CONTEXT_NOISE
from dreamrun.model.sampler_inputs import MAX_SEED


@dataclass(frozen=True)
class Sizes:
    """How much is measured. The field names are keys of report.json.

    All random draws are seeded, so a smaller size uses the first part of what a larger size uses.
    """

    num_clips: int  # held-out clips that the world model continues
    num_frames: int  # generated frames per clip
    num_states: int  # game states from which counterfactual futures start
    branch_frames: int  # frames of each counterfactual future
    inverse_dynamics_steps: int  # training steps of the inverse dynamics model
    train_records: int  # training records for the inverse dynamics model and for the statistics of real play
    num_long_rollouts: int  # long rollouts
    drift_frames: int  # frames of each long rollout
    sweep_clips: int  # clips per row of the sweep over sampler settings
    sweep_frames: int  # generated frames per clip in the sweep
    sweep_states: int  # game states per row of the sweep
    sweep_steps: tuple[int, ...]  # values of num_steps in the sweep
    sweep_guidance: tuple[float, ...]  # values of guidance in the sweep
    sweep_noise: tuple[float, ...]  # values of context_noise in the sweep
    timed_frames: int  # frames whose generation is timed
    outcome_clips: int  # held-out clips on which the outcome head is measured


FULL = Sizes(
    num_clips=64,
    num_frames=64,
    num_states=48,
    branch_frames=32,
    inverse_dynamics_steps=800,
    train_records=200,
    num_long_rollouts=32,
    drift_frames=900,
    sweep_clips=24,
    sweep_frames=16,
    sweep_states=24,
    sweep_steps=(1, 2, 4, 10),
    sweep_guidance=(1.0, 1.5, 2.0),
    sweep_noise=(0.0, 0.02, 0.05, 0.1),
    timed_frames=40,
    outcome_clips=1000,
)
QUICK = Sizes(
    num_clips=12,
    num_frames=16,
    num_states=8,
    branch_frames=8,
    inverse_dynamics_steps=150,
    train_records=60,
    num_long_rollouts=4,
    drift_frames=90,
    sweep_clips=4,
    sweep_frames=4,
    sweep_states=2,
    sweep_steps=(1, 4, 10),
    sweep_guidance=(1.0,),
    sweep_noise=(0.0, 0.02, 0.1),
    timed_frames=8,
    outcome_clips=100,
)
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

    @property
    def sizes(self) -> Sizes:
        """The full or the quick sizes, changed by the options that are set."""
        options = {name: getattr(self, name) for name in _SIZE_OPTIONS}
        given = {name: value for name, value in options.items() if value is not None}
        return replace(QUICK if self.quick else FULL, **given)
