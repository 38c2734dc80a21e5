"""What a run is made of before its first step: data, architecture, weights and optimizer, from its config."""

import copy
import sys
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dreamrun.data.batch import Batch
from dreamrun.data.captions import draw_phrasings
from dreamrun.data.dataset import POOL_RECORDS, ClipDataset
from dreamrun.data.mixture import Mixture
from dreamrun.data.workers import prefetch
from dreamrun.games.game import Game, combine_games
from dreamrun.model.checkpoint import load_config
from dreamrun.model.config import PRESETS, ModelConfig
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import choose_device, describe_device, uses_bf16
from dreamrun.model.text_encoder import encode_bytes
from dreamrun.training.compiler import Compiler
from dreamrun.training.distributed import print0, rank, rank_zero_first, world_size
from dreamrun.training.generated_context import SelfForcing
from dreamrun.training.optimizer import make_optimizer
from dreamrun.training.state import StepStats, TrainState
from dreamrun.training.tasks import TASKS, assign_tasks, fill
from dreamrun.training.train_config import ResolvedConfig, TrainConfig, num_training_steps, resolve

_MODEL_OPTIONS = ("attention", "schedule", "prediction", "dim", "patch_size", "window_frames")  # of the command line
VAL_SEED = 1_000_000  # for order and noise of the validation clips: the same at every step and in every run


@dataclass(frozen=True)
class Run:
    """Everything that stays the same from step to step, and `state`, which does not."""

    config: ResolvedConfig
    device: torch.device
    data: Mixture  # this rank's part of the train split
    val_data: Mixture
    games: list[str]  # the name of each data set's game in the checkpoint
    tasks: np.ndarray  # of the clips of a batch over all ranks: `assign_tasks`
    batches_per_epoch: int
    max_steps: int  # of the whole run
    state: TrainState
    compiler: Compiler | None

    def batches(self) -> Generator[Batch, None, None]:
        """This rank's part of the batches from the state's epoch and batch on. A thread loads them ahead."""
        epoch, number = divmod(self.state.batch, self.batches_per_epoch)  # a whole epoch is the next one's start
        batches = self.data.endless_batches(self.config.batch_size, self.state.epoch + epoch, number)
        return prefetch(map(self._prepare, batches))

    def _prepare(self, batch: Batch) -> Batch:
        if self.config.words:
            assert batch.captions is not None
            batch = replace(batch, text=encode_bytes(draw_phrasings(batch.captions.tolist(), batch.seeds)))
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def step_tasks(self) -> np.ndarray:
        """The number in TASKS of each of this rank's clips at the state's step. It changes from step to step."""
        return np.array_split(np.roll(self.tasks, self.state.step), world_size())[rank()]


def prepare(config: TrainConfig, checkpoint: Path | None) -> Run:
    """Open the data, and make the state or restore it from a checkpoint. Every rank calls this."""
    is_filling = checkpoint is None or load_config(checkpoint)[0].can_fill
    if config.fill_share is None and not is_filling:  # the run began before its recipe had a share of filling in
        config = replace(config, fill_share=0.0)
    resolved = resolve(config)
    device, preset = choose_device(config.device), select_model_config(config)
    with rank_zero_first():  # it writes the index of the data set that the other ranks read
        data, val_data = open_splits(config, config.clip_frames or preset.window_frames)
    batches_per_epoch = data.num_batches(config.batch_size)
    words = uses_words(config, data)
    game, names = combine_games([part.metadata for part in data.sets], words)
    model_config = fit_config_to_mixture(preset, data, words)
    resolved = replace(resolved, words=words)
    state = create_train_state(resolved, model_config, game, data.order_fingerprint(config.batch_size), device)
    if device.type == "cuda" and not uses_bf16(device, config.bf16):
        torch.set_float32_matmul_precision("high")  # TF32: as exact as bfloat16 at least
    is_compiled = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
    compiler = Compiler(falls_back=config.compile == "auto") if is_compiled else None
    state.network = parallelize(config, state.model, compiler)
    if checkpoint is not None:
        state.load_checkpoint(checkpoint)
        print0(f"resumed from {checkpoint}, step {state.step}")
    max_steps = num_training_steps(config, batches_per_epoch)
    tasks = assign_tasks(resolved)
    return Run(resolved, device, data, val_data, names, tasks, batches_per_epoch, max_steps, state, compiler)


def print_summary(run: Run) -> None:
    """Print what runs: device, ranks, model, data and length, on rank 0."""
    config, model = run.config, run.state.model
    num_parameters = sum(p.numel() for p in model.parameters())
    precision = "bfloat16" if uses_bf16(model.device, config.bf16) else "float32"
    print0(f"device: {describe_device(model.device)}; {precision}")
    if world_size() > 1:
        print0(f"ranks: {world_size()}, each with {config.batch_size // world_size()} clips of a batch")
    print0(f"model: {config.preset}, {num_parameters / 1e6:.2f} M parameters, {model.config.prediction} prediction")
    for part in run.data.sets:
        print0(
            f"data: {part.folder}: {len(part.index.lengths)} records, {part.num_clips} clips of {part.clip_frames} "
            f"frames, {part.num_batches(config.batch_size)} batches of {config.batch_size} an epoch"
        )
        if part.metadata.actions.unconditional:
            print0("this data has no actions: the model learns to continue play, but nobody can steer it")
    if model.game.games:
        names = ", ".join(game.name for game in model.game.games)
        print0(f"games: {names}; {'told in words' if model.config.words else 'without words'}")
    if run.tasks.any():
        counts = np.bincount(run.tasks, minlength=len(TASKS)).tolist()
        clips = (f"{count} {task.corrupt.__name__}" for count, task in zip(counts, TASKS, strict=True) if count)
        print0(f"tasks: of the {config.batch_size} clips of a batch {', '.join(clips)}")
    print0(f"run: {config.out}, {run.max_steps} steps")


def select_model_config(config: TrainConfig) -> ModelConfig:
    """The preset's architecture, with the options that the config overrides."""
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}: choose {', '.join(PRESETS)}")
    options = {name: getattr(config, name) for name in _MODEL_OPTIONS}
    overrides = {name: value for name, value in options.items() if value is not None}
    model_config = replace(PRESETS[config.preset], outcomes=config.outcomes != "off", **overrides)
    if config.clip_frames and config.clip_frames > model_config.window_frames:
        raise ValueError(f"clips of {config.clip_frames} frames do not fit a window of {model_config.window_frames}")
    return model_config


def fit_config_to_data(config: ModelConfig, metadata: Game) -> ModelConfig:
    """The same architecture for the frame size and the action vectors of a data set."""
    height, width, channels = metadata.frame_shape
    return replace(
        config, frame_height=height, frame_width=width, num_channels=channels, num_actions=len(metadata.actions)
    )


def fit_config_to_mixture(config: ModelConfig, mixture: Mixture, words: bool) -> ModelConfig:
    """The same architecture for the action vectors of a mixture, and for the frame size of its first data set."""
    if config.outcomes and len(mixture.sets) > 1:
        raise ValueError("--outcomes needs a single data set: the outcome head knows one frame size and one game")
    fitted = fit_config_to_data(config, mixture.sets[0].metadata)
    for data in mixture.sets:
        height, width, _ = data.metadata.frame_shape
        try:
            fitted.resized(height, width)
        except ValueError as error:
            raise ValueError(f"{data.folder}: {error}") from None
    return replace(fitted, num_actions=mixture.num_actions, words=words)


def uses_words(config: TrainConfig, mixture: Mixture) -> bool:
    """Whether the network learns words: as the config says, else if there are several data sets, one with a caption."""
    if config.words is not None:
        return config.words
    return len(mixture.sets) > 1 and any(data.metadata.caption for data in mixture.sets)


def open_splits(config: TrainConfig, clip_frames: int) -> tuple[Mixture, Mixture]:
    """This rank's part of the train and val splits of all data sets."""
    parts = world_size() * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared evenly by {world_size()} ranks "
            f"times --accumulate {config.accumulate}: choose a multiple of {parts}"
        )
    numbers = range(len(config.folders))
    train, val = ([_open_split(config, n, split, clip_frames) for n in numbers] for split in ("train", "val"))
    for data in val:
        if data.num_clips < world_size():
            raise ValueError(
                f"{data.folder}/val has {data.num_clips} clips, fewer than there are ranks ({world_size()})"
            )
    game, names = combine_games([data.metadata for data in train])
    slices = [game.part(name).action_slice for name in names]
    return Mixture(train, slices, config.shares), Mixture(val, slices)


def _open_split(config: TrainConfig, number: int, split: str, clip_frames: int) -> ClipDataset:
    """A split of the data set of that number, with a seed of its own: the clips of two sets differ in their noise."""
    return ClipDataset(
        config.folders[number],
        split,
        clip_frames,
        stride=config.clip_stride,
        seed=number + (config.seed if split == "train" else VAL_SEED),
        rank=rank(),
        world_size=world_size(),
        max_bad_fraction=config.max_bad_fraction,
        progress=lambda num_done, num_shards: _print_progress(split, num_done, num_shards),
        outcomes=config.outcomes != "off",
        choose_events=config.outcomes == "head" and split == "train",  # a network learns from all of play
        pool_records=max(1, POOL_RECORDS // len(config.folders)),
    )


def _print_progress(split: str, num_done: int, num_shards: int) -> None:
    end = "\n" if num_done == num_shards else ""
    print(f"\rindexing {split}: {num_done} of {num_shards} shards", end=end, file=sys.stderr, flush=True)


def load_initial_model(config: TrainConfig, model_config: ModelConfig, game: Game) -> WorldModel | None:
    """The model of the checkpoint `config.init_from`; None if there is none."""
    if not config.init_from:
        return None
    model = WorldModel.from_pretrained(config.init_from)
    sizes = ("patch_size", "dim", "num_blocks", "num_heads", "num_channels", "num_actions")
    for name in (*sizes, "attention", "schedule", "prediction"):
        loaded, wanted = getattr(model.config, name), getattr(model_config, name)
        if loaded != wanted:
            raise ValueError(f"cannot start from {config.init_from}: its {name} is {loaded}, this run's is {wanted}")
    if model.config.words and not model_config.words:
        raise ValueError(f"cannot start from {config.init_from}: it has learnt words, so add --words True")
    own, wanted = (
        [(part.name, part.action_offset, part.actions.names) for part in info.games] for info in (model.game, game)
    )
    if own and wanted and own != wanted:  # the slices of their actions would be mixed up
        raise ValueError(f"cannot start from {config.init_from}: its games are {own}, this run's are {wanted}"[:400])
    return model


def create_train_state(
    config: ResolvedConfig, model_config: ModelConfig, game: Game, order: dict[str, int], device: torch.device
) -> TrainState:
    """The state before the first step: weights drawn from `config.seed`, or those of `config.init_from`.

    The network is not wrapped yet: `parallelize` does that, on all ranks at once.
    """
    torch.manual_seed(config.seed)
    can_fill = any(TASKS[number].corrupt is fill for number in assign_tasks(config))
    model = WorldModel(replace(model_config, can_fill=can_fill), game)
    initial = load_initial_model(config, model_config, game)
    if initial is not None:
        own = model.state_dict()  # a new outcome head keeps its initial weights
        model.load_state_dict({name: initial.state_dict().get(name, own[name]) for name in own})
    if config.outcomes == "head":
        assert initial is not None and model.outcome_head is not None
        model.config = replace(model.config, can_fill=initial.config.can_fill)  # the network stays as it is
        model.requires_grad_(False)
        model.outcome_head.requires_grad_(True)
    model.to(device)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = make_optimizer(model, config.optimizer, config.learning_rate, config.weight_decay)
    return TrainState(model, model, ema, optimizer, SelfForcing(ema, config.bf16), StepStats(device), order)


def parallelize(config: TrainConfig, model: WorldModel, compiler: Compiler | None = None) -> nn.Module:
    """Apply activation checkpointing, torch.compile and DDP, as the config and the number of ranks demand."""
    model.activation_checkpointing = config.activation_checkpointing
    if compiler:
        compiler.compile(model.blocks)
    if world_size() == 1:
        return model
    device_ids = [model.device] if model.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids, forward_sync_buffers=False, gradient_as_bucket_view=True)
