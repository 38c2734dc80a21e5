"""The data and the architecture of a run, made from its config, and checks that they fit together."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np

from dreamrun.data.dataset import POOL_RECORDS, Batch, ClipDataset
from dreamrun.data.mixture import Mixture
from dreamrun.games.game import Game, combine_games
from dreamrun.model.config import PRESETS, ModelConfig
from dreamrun.model.dit import WorldModel
from dreamrun.training.config import TrainConfig
from dreamrun.training.distributed import rank, world_size

_MODEL_OPTIONS = ("attention", "schedule", "prediction", "dim", "patch_size", "window_frames")  # of the command line
SPLITS = ("train", "val")
VAL_SEED = 1_000_000  # for order and noise of the validation clips: the same at every step and in every run


def select_model_config(config: TrainConfig) -> ModelConfig:
    """The preset's architecture, with the options that the config overrides.

    Raises:
        ValueError: unknown preset; clips longer than the window.
    """
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
    """The same architecture for the action vectors of a mixture, and for the frame size of its first data set.

    Raises:
        ValueError: the patch does not fit the frames of a data set; or outcomes are asked for of several.
    """
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
    """This rank's part of the train and val splits of all data sets.

    Raises:
        ValueError: as `ClipDataset` does; the batch size does not fit; val has fewer clips than there are ranks.
    """
    train, val = ([_open_split(config, n, split, clip_frames) for n in range(len(config.folders))] for split in SPLITS)
    check_batch_size(config, min(data.num_clips for data in train))
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


def check_batch_size(config: TrainConfig, num_clips: int) -> None:
    """Check the global batch size.

    Raises:
        ValueError: it is not a multiple of ranks times micro-batches, or larger than the data set.
    """
    parts = world_size() * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared evenly by {world_size()} ranks "
            f"times --accumulate {config.accumulate}: choose a multiple of {parts}"
        )
    if config.batch_size > num_clips:
        raise ValueError(f"batch_size {config.batch_size} is more than the {num_clips} clips there are")


def fixed_validation_batches(mixture: Mixture, batch_size: int, max_batches: int) -> list[Batch]:
    """This rank's part of the first `max_batches` batches, as many of each set. Those of few clips are smaller."""
    fixed, per_set = [], -(-max_batches // len(mixture.sets))
    for number, data in enumerate(mixture.sets):
        size = min(batch_size, data.num_clips // world_size() * world_size())
        with closing(cast(Generator, data.batches(size))) as batches:
            fixed += [mixture.widen(batch, number) for batch in islice(batches, per_set)]
    return fixed


def check_has_outcomes(batches: list[Batch], source: Path) -> None:
    """Raises ValueError if batches of a data set with outcomes know neither a reward nor whether an episode ended."""
    for outcomes in (batch.outcomes for batch in batches if batch.outcomes is not None):
        if np.isfinite(outcomes.rewards).any() or np.isfinite(outcomes.ends).any():
            return
    raise ValueError(f"the records of {source}/val hold no rewards and no ends: train with --outcomes off")


def load_initial_model(config: TrainConfig, model_config: ModelConfig, game: Game) -> WorldModel | None:
    """The model of the checkpoint `config.init_from`; None if there is none.

    Raises:
        ValueError: no checkpoint there, or one of another architecture, or of other games than this run's several.
    """
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
