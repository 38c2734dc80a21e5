"""What an evaluation is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Sizes:
    """How much is measured. All that is drawn, is drawn by seed: a smaller size takes the first of a larger one's."""

    num_clips: int  # of held-out play that are dreamt along with
    num_frames: int  # dreamt of each
    num_states: int  # moments from which futures branch
    branch_frames: int  # of each future
    reader_steps: int  # that the network which names keys is trained for
    train_records: int  # that it is trained on, and that dreams are compared with
    drift_dreams: int
    drift_frames: int
    sweep_clips: int  # for each row of the table of settings
    sweep_frames: int
    sweep_states: int
    sweep_steps: tuple[int, ...]
    sweep_guidance: tuple[float, ...]
    sweep_noise: tuple[float, ...]
    timed_frames: int


FULL = Sizes(
    num_clips=64,
    num_frames=64,
    num_states=48,
    branch_frames=32,
    reader_steps=800,
    train_records=200,
    drift_dreams=32,
    drift_frames=900,
    sweep_clips=24,
    sweep_frames=16,
    sweep_states=24,
    sweep_steps=(1, 2, 4, 10),
    sweep_guidance=(1.0, 1.5, 2.0),
    sweep_noise=(0.0, 0.02, 0.05, 0.1),
    timed_frames=40,
)
QUICK = Sizes(
    num_clips=12,
    num_frames=16,
    num_states=8,
    branch_frames=8,
    reader_steps=150,
    train_records=60,
    drift_dreams=4,
    drift_frames=90,
    sweep_clips=4,
    sweep_frames=4,
    sweep_states=2,
    sweep_steps=(1, 4, 10),
    sweep_guidance=(1.0,),
    sweep_noise=(0.0, 0.02, 0.1),
    timed_frames=8,
)


@dataclass(frozen=True)
class EvaluateConfig:
    """Judge a checkpoint against the real game; or compare two reports."""

    checkpoint: str = ""  # a checkpoint's folder, or "user/name" on the Hub
    data: Path | None = None  # data set folder with held-out play; None: play is collected from the checkpoint's game
    output: Path = Path("report")  # folder of report.html, report.json and report.md
    split: Literal["test", "val"] | None = None  # the held-out levels; None: test, or val where there is no test
    quick: bool = False  # a first impression in two minutes on two cores: everything smaller
    num_clips: int | None = None  # held-out clips; None: 64, or 12 when quick
    num_frames: int | None = None  # frames dreamt of each; None: 64, or 16 when quick
    num_states: int | None = None  # moments from which futures branch; None: 48, or 8 when quick
    drift_dreams: int | None = None  # long dreams, of 900 frames, or 90 when quick; None: 32, or 4 when quick
    num_prompt_frames: int = 4
    num_steps: int | None = None  # denoising steps a frame; None: as the checkpoint says
    guidance: float = 1.0  # above 1: obey actions more than the network would by itself, at twice the cost a step
    context_noise: float = 0.02  # of the frames that are looked back at
    seed: int = 0  # of clips, moments, and noise
    batch_size: int = 16  # dreams side by side
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bf16: bool | None = None  # bfloat16 weights; None: where the device is fast at it
    compare: tuple[Path, Path] | None = None  # two report.json: print what differs beyond the intervals, no more

    def __post_init__(self):
        if self.compare is None and not self.checkpoint:
            raise ValueError("give --checkpoint DIR, or two reports to --compare")
        for name in (
            "num_clips",
            "num_frames",
            "num_states",
            "drift_dreams",
            "num_prompt_frames",
            "num_steps",
            "batch_size",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if not self.guidance >= 0:
            raise ValueError(f"guidance is {self.guidance}: it cannot be negative")
        if not 0.0 <= self.context_noise < 1.0:
            raise ValueError(f"context_noise is {self.context_noise}: it must lie in [0, 1)")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it cannot be negative")
