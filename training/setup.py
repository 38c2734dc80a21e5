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

from data.actions import ActionSpace, unnamed_actions
from data.dataset import Batch, ClipDataset
from data.games.factory import game_of
from data.metadata import Metadata
from model.config import PRESETS, ModelConfig
from model.dit import WorldModel
from model.game_info import GameInfo
from training.config import TrainConfig
from training.distributed import rank, world_size

_MODEL_OPTIONS = ("attention", "schedule", "prediction", "dim", "patch_size", "window_frames")  # of the command line
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


def fit_config_to_data(config: ModelConfig, metadata: Metadata) -> ModelConfig:
    """The same architecture for the frame size and the action vectors of a data set."""
    height, width, channels = metadata.frame_shape
    return replace(
        config, frame_height=height, frame_width=width, num_channels=channels, num_actions=len(metadata.actions)
    )


def game_info(metadata: Metadata) -> GameInfo:
    """The data set's game, as a checkpoint describes it."""
    return GameInfo(
        environment=metadata.environment,
        environment_options=metadata.environment_options,
        action_names=metadata.actions.names,
        action_keys=metadata.actions.keys,
        acting_actions=metadata.actions.acting,
        action_kinds=metadata.actions.kinds,
        action_scales=metadata.actions.scales,
        fps=metadata.fps,
    )


def action_space(model: WorldModel) -> ActionSpace:
    """The action space of a checkpoint's game. Actions get numbers if the checkpoint has no names for them.

    Raises:
        KeyError, TypeError, ValueError: the checkpoint's actions are inconsistent.
    """
    if model.game.action_names:
        return ActionSpace.from_dict(model.game.to_dict())
    return unnamed_actions(model.config.num_actions)


def open_splits(config: TrainConfig, clip_frames: int) -> tuple[ClipDataset, ClipDataset]:
    """This rank's part of the train and val splits.

    Raises:
        ValueError: as `ClipDataset` does; the batch size does not fit; val has fewer clips than there are ranks.
    """
    train, val = (_open_split(config, split, clip_frames) for split in ("train", "val"))
    check_batch_size(config, train.num_clips)
    if val.num_clips < world_size():
        raise ValueError(f"{config.data}/val has {val.num_clips} clips, fewer than there are ranks ({world_size()})")
    return train, val


def _open_split(config: TrainConfig, split: str, clip_frames: int) -> ClipDataset:
    return ClipDataset(
        config.data,
        split,
        clip_frames,
        stride=config.clip_stride,
        seed=config.seed if split == "train" else VAL_SEED,
        rank=rank(),
        world_size=world_size(),
        max_bad_fraction=config.max_bad_fraction,
        progress=lambda num_done, num_shards: _print_progress(split, num_done, num_shards),
        outcomes=config.outcomes != "off",
        choose_events=config.outcomes == "head" and split == "train",  # a network learns from all of play
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


def fixed_validation_batches(data: ClipDataset, batch_size: int, max_batches: int) -> list[Batch]:
    """This rank's part of the first `max_batches` batches of a split. If it has few clips, batches are smaller."""
    batch_size = min(batch_size, data.num_clips // world_size() * world_size())
    with closing(cast(Generator, data.batches(batch_size))) as batches:
        return list(islice(batches, max_batches))


def check_has_outcomes(batches: list[Batch], source: Path) -> None:
    """Raises ValueError if batches of a data set with outcomes know neither a reward nor whether an episode ended."""
    for outcomes in (batch.outcomes for batch in batches if batch.outcomes is not None):
        if np.isfinite(outcomes.rewards).any() or np.isfinite(outcomes.ends).any():
            return
    raise ValueError(f"the records of {source}/val hold no rewards and no ends: train with --outcomes off")


def load_initial_model(config: TrainConfig, model_config: ModelConfig) -> WorldModel | None:
    """The model of the checkpoint `config.init_from`; None if there is none.

    Raises:
        ValueError: no checkpoint there, or one of another architecture.
    """
    if not config.init_from:
        return None
    model = WorldModel.from_pretrained(config.init_from)
    sizes = ("patch_size", "dim", "num_blocks", "num_heads", "num_channels", "num_actions")
    for name in (*sizes, "attention", "schedule", "prediction"):
        loaded, wanted = getattr(model.config, name), getattr(model_config, name)
        if loaded != wanted:
            raise ValueError(f"cannot start from {config.init_from}: its {name} is {loaded}, this run's is {wanted}")
    return model


def check_model_fits_data(model: WorldModel, metadata: Metadata, source: Path | str, any_game: bool = False) -> None:
    """Check that a model can be used with a data set.

    Args:
        source: the data set, for the error message.
        any_game: accept data of another game, if its frames and actions fit.

    Raises:
        ValueError: the data set has another frame size or other actions, or it is of another game.
    """
    config, game = model.config, model.game
    height, width, channels = metadata.frame_shape
    if config.frame_shape != (channels, height, width):
        raise ValueError(
            f"the model makes frames of {config.frame_width}x{config.frame_height}, "
            f"but those of {source} are {width}x{height} (width x height)"
        )
    if config.num_actions != len(metadata.actions) or game.action_kinds != metadata.actions.kinds:
        num_model_actions = len(game.action_names) or config.num_actions
        raise ValueError(
            f"the model knows {num_model_actions} {_kind_of_actions(game.action_kinds)}, but {source} has "
            f"{len(metadata.actions.names)} {_kind_of_actions(metadata.actions.kinds)}"
        )
    games = game_of(game.environment), game_of(metadata.environment)
    if not any_game and all(games) and games[0] != games[1]:
        raise ValueError(
            f"the model is of the game {games[0]}, but {source} is of {games[1]}: "
            "choose data of the model's game, or insist with --any-game"
        )


def _kind_of_actions(kinds: tuple[str, ...]) -> str:
    return "buttons and axes" if kinds else "actions"
