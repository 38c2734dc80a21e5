"""What a training run is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from training.loss import NoiseLevels


@dataclass(frozen=True)
class Recipe:
    """How a preset is best trained, as far as it was measured."""

    optimizer: str = "adamw"
    learning_rate: float = 5e-4
    noise_levels: NoiseLevels = "uniform"
    scheduled_sampling: float = 0.0


PUBLISHED = Recipe()  # the public CoinRun networks were trained so
_MEASURED = Recipe(optimizer="muon", learning_rate=2e-3, noise_levels="teacher-forcing")
RECIPES = {"pico": _MEASURED, "nano": _MEASURED}


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train_world_model.py`, saved with every checkpoint."""

    data: Path  # data set folder, with train and val splits
    out: Path  # run folder: checkpoints, metrics.jsonl, rollouts
    preset: str = "nano"  # pico (simple games), nano (two CPU cores), small (57.8 M parameters) or base (119.7 M)
    prediction: Literal["v", "x0"] | None = None  # what the network puts out; None: as the preset says
    patch_size: int | None = None  # pixels on a side of what becomes one token; None: as the preset says
    window_frames: int | None = None  # the most frames it sees at once; None: as the preset says
    clip_frames: int | None = None  # frames of a training clip; None: the window
    clip_stride: int = 8  # frames from the start of one clip to the next
    max_steps: int | None = None  # optimizer steps; None: as many as --epochs make
    epochs: int | None = None  # passes over the training clips; one, if max_steps is None as well
    batch_size: int = 16  # clips a step, over all processes
    accumulate: int = 1  # parts that each process takes its share of a batch in; saves memory, changes nothing else
    optimizer: Literal["adamw", "muon"] | None = None  # None: as the preset's recipe says, here and below
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup_steps: int = 200  # the learning rate rises from 0 over these
    decay_fraction: float = 0.2  # and falls to 0 over this last share of the run
    clip_grad_norm: float = 1.0
    ema_decay: float = 0.999  # of the averaged weights that are saved; ramps up from 0
    noise_levels: NoiseLevels | None = None  # how they are spread, and what is looked back at: see training/loss.py
    scheduled_sampling: float | None = (
        None  # share of the clips in which the network looks back at frames of its own making
    )
    action_dropout: float = 0.1  # share of clips whose actions are all hidden
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bf16: bool | None = None  # bfloat16 autocast (weights stay float32); None: where the device is fast at it
    compile: bool = False  # torch.compile, block by block
    activation_checkpointing: bool = False  # run each block again for its gradient: slower, in a fraction of the memory
    log_every: int = 20  # steps
    val_every: int = 500
    val_batches: int = 16
    epoch_clips: int | None = None  # of val, measured when an epoch or the run ends; None: all of val, each frame once
    rollout_every: int = 1000
    checkpoint_every: int = 500
    keep_checkpoints: int = 3  # the newest ones; older ones are deleted, but for the best of those validated
    max_bad_steps: int = 10  # in a row, skipped because loss or gradient is not finite; then the run ends
    max_bad_fraction: float = 0.01  # unreadable records that are put up with
    resume: str = ""  # "auto": the run folder's latest whole checkpoint, if there is one; or a checkpoint's path
    init_from: str = ""  # a checkpoint's path, or "user/name" on the Hub: a new run begins with its weights
    wandb: Literal["auto", "online", "offline", "off"] = "auto"  # auto: online when logged in, else off
    wandb_project: str = "dreamrun"
    wandb_entity: str | None = None

    def __post_init__(self):
        for name in (
            "clip_stride",
            "batch_size",
            "log_every",
            "val_every",
            "val_batches",
            "rollout_every",
            "accumulate",
            "max_bad_steps",
            "checkpoint_every",
            "keep_checkpoints",
            "patch_size",
            "window_frames",
            "clip_frames",
            "max_steps",
            "epochs",
            "epoch_clips",
        ):
            self._at_least(name, 1)
        self._at_least("warmup_steps", 0)
        for name in ("decay_fraction", "ema_decay", "action_dropout", "scheduled_sampling", "max_bad_fraction"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must lie in 0 to 1")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}: it must be positive")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}")


def with_recipe(config: TrainConfig) -> TrainConfig:
    """The preset's recipe in place of what is None."""
    recipe = asdict(RECIPES.get(config.preset, PUBLISHED))
    return replace(config, **{name: value for name, value in recipe.items() if getattr(config, name) is None})
