"""The config of a training run, and the training recipes of the presets."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from dreamrun.data.mixture import MAX_SETS, Folders
from dreamrun.games.ranges import Count, Positive, Range, Seed, Share, check_ranges
from dreamrun.model.diffusion import Prediction, Schedule
from dreamrun.model.loss import LevelDistribution

NoiseLevels = Literal["uniform", "logit-normal", "teacher-forcing", "teacher-forcing-logit-normal"]

# Option --noise-levels -> whether each frame attends to a nearly clean context, and the distribution of its own level.
# Teacher forcing is as a rollout is. In diffusion forcing, without it, a frame rarely has two clean frames before it,
# but the network needs two to see motion.
NOISE_LEVELS: dict[NoiseLevels, tuple[bool, LevelDistribution]] = {
    "uniform": (False, LevelDistribution()),
    "logit-normal": (False, LevelDistribution(logit_normal=True)),
    "teacher-forcing": (True, LevelDistribution(shifted=True)),
    "teacher-forcing-logit-normal": (True, LevelDistribution(logit_normal=True, shifted=True)),
}

# Values of options that a preset trains best with, as far as they were measured.
PUBLISHED: dict[str, Any] = {  # of the published CoinRun networks
    "optimizer": "adamw",
    "learning_rate": 5e-4,
    "noise_levels": "uniform",
    "scheduled_sampling": 0.0,
    "fill_share": 0.0,
}
_MEASURED = {**PUBLISHED, "optimizer": "muon", "learning_rate": 2e-3, "noise_levels": "teacher-forcing"}
_FILLING = {**_MEASURED, "fill_share": 0.3}  # play and editing in one network
RECIPES = {"pico": _FILLING, "nano": _FILLING, "toy": _MEASURED}


@dataclass(frozen=True)
class TrainConfig:
    """Options of `train_world_model.py`, saved as `train_config.json` in the run folder."""

    # Folder of a data set with train and val splits, from scripts.collect or scripts.import_video. Of several, one
    # network learns all, each at its own frame size and with its own actions.
    data: Folders
    out: Path  # run folder, for checkpoints, metrics.jsonl and rollouts
    mix: str | None = None  # how often each data set comes, such as 1,2,1; None: as often as it has clips
    words: bool | None = None  # learn the captions of the data; None: if there are several data sets with captions
    preset: str = "nano"  # pico (2.5 M parameters), nano (9.8 M), toy (15 M), small (57.8 M) or base (119.7 M)
    attention: Literal["axial", "full"] | None = None  # over space and time in turn, or at once; None: the preset's
    schedule: Schedule | None = None  # of the noise; linear is rectified flow; None: the preset's
    prediction: Prediction | None = None  # what the network predicts; None: the preset's choice
    dim: Positive | None = None  # width of the network; None: the preset's
    patch_size: Positive | None = None  # pixels on a side of a patch, which becomes one token; None: the preset's
    window_frames: Positive | None = None  # maximum number of frames in the network's context; None: the preset's
    clip_frames: Positive | None = None  # frames in a training clip; None: the window
    clip_stride: Positive = 8  # frames from the start of one clip to the start of the next
    max_steps: Positive | None = None  # optimizer steps; if --epochs is given too, the shorter one counts
    epochs: Positive | None = None  # passes over the training clips; None: 1, unless --max-steps is given
    batch_size: Positive = 16  # clips in a step, over all processes
    accumulate: Positive = 1  # micro-batches in a step of each process; a larger number needs less memory, same result
    optimizer: Literal["adamw", "muon"] | None = None  # None: the preset's recipe
    learning_rate: Annotated[float | None, Range(1e-12)] = None  # None: the preset's recipe
    weight_decay: float = 0.01
    warmup_steps: Count = 200  # steps in which the learning rate rises from 0
    decay_fraction: Share = 0.2  # last share of the run, in which the learning rate falls to 0
    clip_grad_norm: float = 1.0  # maximum norm of the gradient
    ema_decay: Share = 0.999  # decay of the weight average (EMA), which is saved; lower in the first steps
    noise_levels: NoiseLevels | None = None  # distribution of noise levels (NOISE_LEVELS); None: preset's recipe
    scheduled_sampling: Share | None = None  # share of clips trained on predicted context frames; None: preset's recipe
    # Share of clips trained on context frames that the sampler has generated, for the last part of a run: long rollouts
    # then hold. At 0.5 a step takes two thirds more time.
    self_forcing: Share = 0.0
    fill_share: Share | None = None  # share of clips trained on filling in missing frames; None: preset's recipe
    # "head": train an outcome head, which predicts reward and end, behind the network of --init-from, which stays as it
    # is. "all": train the network too; the head sends no gradient into it.
    outcomes: Literal["off", "head", "all"] = "off"
    action_dropout: Share = 0.1  # share of clips whose actions are all hidden
    seed: Seed = 0  # of the initial weights, and of the order and the noise of the training clips
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    bf16: bool | None = None  # bfloat16 autocast (weights stay float32); None: if the device has native bfloat16
    # torch.compile of each block. auto: on a GPU, and without it if compiling fails. --compile alone: on
    compile: Literal["auto", "on", "off"] = "auto"
    activation_checkpointing: bool = False  # recompute activations in the backward pass: slower, but less memory
    log_every: Positive = 20  # steps between lines of training metrics
    val_every: Positive = 500  # steps between validations
    val_batches: Positive = 16  # validation batches
    epoch_clips: Positive | None = None  # val clips for the metrics at the end of an epoch or the run; None: all of val
    rollout_every: Positive = 1000  # steps between validation rollouts
    rollout_frames: Positive = 32  # frames of a validation rollout, 4 of them the prompt; an action strip has 4 more
    plot: bool = True  # draw metrics.png
    checkpoint_every: Positive = 500  # steps between checkpoints
    keep_checkpoints: Positive = 3  # number of newest checkpoints to keep; the best one by validation loss is kept too
    max_bad_steps: Positive = 10  # stop after this many non-finite steps (loss or gradient) in a row
    max_bad_fraction: Share = 0.01  # maximum share of records that cannot be read
    resume: str = ""  # "auto": the newest undamaged checkpoint of the run folder, if any; or the path of a checkpoint
    init_from: str = ""  # checkpoint whose weights a new run starts from: a path, or "user/name" on the Hub
    wandb: Literal["auto", "online", "offline", "off"] = "auto"  # auto: online if logged in, else off
    wandb_project: str = "dreamrun"
    wandb_entity: str | None = None

    def __post_init__(self):
        check_ranges(self)
        if isinstance(self.data, tuple) and len(self.data) == 1:
            object.__setattr__(self, "data", self.data[0])
        if not 1 <= len(self.folders) <= MAX_SETS:
            raise ValueError(f"data names {len(self.folders)} data sets: expected 1 to {MAX_SETS}")
        if self.shares is not None and len(self.shares) != len(self.folders):
            raise ValueError(f"mix is {self.mix}: expected one number for each of {len(self.folders)} data sets")
        if self.self_forcing + (self.scheduled_sampling or 0) > 1:
            raise ValueError("self_forcing and scheduled_sampling are shares of the clips: together at most 1")
        if self.self_forcing and (self.words or len(self.folders) > 1):
            raise ValueError("self_forcing needs a single data set without words")
        if self.words and self.outcomes != "off":
            raise ValueError("words need --outcomes off: an outcome head is trained without words")
        if self.outcomes == "head" and not self.init_from:
            raise ValueError("outcomes is 'head': name the checkpoint that gets the head with --init-from")

    @property
    def folders(self) -> tuple[Path, ...]:
        """The data sets."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The numbers of `mix`."""
        if self.mix is None:
            return None
        try:
            shares = tuple(map(float, self.mix.split(",")))
        except ValueError:
            shares = ()
        if not shares or not all(0 < share < math.inf for share in shares):
            raise ValueError(f"mix is {self.mix!r:.40}: expected positive numbers separated by commas, such as 1,2,1")
        return shares


@dataclass(frozen=True)
class ResolvedConfig(TrainConfig):
    """A `TrainConfig` whose choices are made: from options, else from the preset's recipe."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 5e-4
    noise_levels: NoiseLevels = "uniform"
    scheduled_sampling: float = 0.0
    fill_share: float = 0.0

    @property
    def teacher_forcing(self) -> bool:
        """Whether noisy frames attend to a nearly clean copy of the clip."""
        return NOISE_LEVELS[self.noise_levels][0]

    @property
    def level_distribution(self) -> LevelDistribution:
        """The distribution of noise levels."""
        return NOISE_LEVELS[self.noise_levels][1]


def resolve(config: TrainConfig) -> ResolvedConfig:
    """Replace the options that are None with those of the preset's recipe."""
    options = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    for name, value in RECIPES.get(config.preset, PUBLISHED).items():
        options[name] = value if options[name] is None else options[name]
    if config.outcomes != "off":
        if config.fill_share:
            raise ValueError("fill_share needs --outcomes off: an outcome head is trained on clips of play alone")
        options["fill_share"] = 0.0
    resolved = ResolvedConfig(**options)
    if config.outcomes != "off" and not resolved.teacher_forcing:
        raise ValueError(
            f"outcomes is {config.outcomes!r}, but noise_levels is {resolved.noise_levels!r}: the outcome head reads "
            "the clean frames of --noise-levels teacher-forcing"
        )
    return resolved


def num_training_steps(config: TrainConfig, batches_per_epoch: int) -> int:
    """Optimizer steps of the whole run: the smaller of `max_steps` and `epochs`; one epoch if neither is given."""
    epoch_steps = (config.epochs or 1) * batches_per_epoch
    if config.max_steps is None:
        return epoch_steps
    return min(config.max_steps, epoch_steps) if config.epochs else config.max_steps
