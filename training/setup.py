"""What a run is made of: its network, its data and its optimizer, as the config says."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from data.actions import ActionSpace, unnamed_actions
from data.dataset import Batch, ClipDataset
from data.metadata import Metadata
from model.config import PRESETS, ModelConfig
from model.dit import WorldModel
from model.game_info import GameInfo
from training.config import TrainConfig
from training.distributed import rank, world_size

VAL_SEED = 1_000_000  # order and noise of the validation clips: the same at every step and in every run


def select_model_config(config: TrainConfig) -> ModelConfig:
    """The preset, with what was asked for in its place.

    Raises:
        ValueError: no such preset; a window too short for the clips.
    """
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}: choose {', '.join(PRESETS)}")
    given = {name: getattr(config, name) for name in ("prediction", "patch_size", "window_frames")}
    chosen = replace(PRESETS[config.preset], **{name: value for name, value in given.items() if value is not None})
    if config.clip_frames and config.clip_frames > chosen.window_frames:
        raise ValueError(f"clips of {config.clip_frames} frames do not fit a window of {chosen.window_frames}")
    return chosen


def fit_config_to_data(config: ModelConfig, metadata: Metadata) -> ModelConfig:
    """An architecture with the data set's frame size and action vectors."""
    height, width, channels = metadata.frame_shape
    return replace(
        config, frame_height=height, frame_width=width, num_channels=channels, num_actions=len(metadata.actions)
    )


def game_info(metadata: Metadata) -> GameInfo:
    """What a checkpoint says about the data set's game."""
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
    """The action space of a checkpoint's game; actions are numbered where the checkpoint does not name them.

    Raises:
        KeyError, TypeError, ValueError: the checkpoint's actions do not fit together.
    """
    if model.game.action_names:
        return ActionSpace.from_dict(model.game.to_dict())
    return unnamed_actions(model.config.num_actions)


def open_split(config: TrainConfig, split: str, clip_frames: int) -> ClipDataset:
    """This rank's part of a split. Raises ValueError as `ClipDataset` does."""
    return ClipDataset(
        config.data,
        split,
        clip_frames,
        stride=config.clip_stride,
        seed=config.seed if split == "train" else VAL_SEED,
        rank=rank(),
        world_size=world_size(),
        max_bad_fraction=config.max_bad_fraction,
        progress=lambda done, todo: _progress(f"indexing {split}", done, todo),
    )


def check_batch_size(config: TrainConfig, num_clips: int) -> None:
    """Whether the global batch can be shared and filled.

    Raises:
        ValueError: it cannot.
    """
    parts = world_size() * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared evenly by {world_size()} ranks "
            f"times --accumulate {config.accumulate}: choose a multiple of {parts}"
        )
    if config.batch_size > num_clips:
        raise ValueError(f"batch_size {config.batch_size} is more than the {num_clips} clips there are")


def learning_rate(config: TrainConfig, step: int, max_steps: int) -> float:
    """Warm-up from 0, constant, then linear decay to 0 at the end (arXiv 2405.18392)."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_steps = max(1.0, config.decay_fraction * max_steps)
    return config.learning_rate * min(warmup, (max_steps - step) / decay_steps, 1.0)


def fixed_validation_batches(data: ClipDataset, batch_size: int, most: int) -> list[Batch]:
    """This rank's part of the first batches of a split, at most so many; smaller ones if it has too few clips."""
    size = min(batch_size, data.num_clips // world_size() * world_size())
    with closing(data.batches(size)) as batches:
        return list(islice(batches, most))


def load_initial_weights(config: TrainConfig, wanted: ModelConfig) -> dict[str, torch.Tensor] | None:
    """The weights that --init-from names, if it names any.

    Raises:
        ValueError: no checkpoint there, or one of another network.
    """
    if not config.init_from:
        return None
    model = WorldModel.from_pretrained(config.init_from)
    for name in ("patch_size", "dim", "num_blocks", "num_heads", "num_channels", "num_actions", "prediction"):
        theirs, ours = getattr(model.config, name), getattr(wanted, name)
        if theirs != ours:
            raise ValueError(f"cannot start from {config.init_from}: its {name} is {theirs}, this run's is {ours}")
    return model.state_dict()


def _progress(what: str, done: int, todo: int) -> None:
    end = "\n" if done == todo else ""
    print(f"\r{what}: {done} of {todo} shards", end=end, file=sys.stderr, flush=True)


def check_model_fits_data(model: WorldModel, metadata: Metadata, where: Path | str) -> None:
    """Check that a model can be used with a data set.

    Raises:
        ValueError: another frame size or other actions.
    """
    config, game = model.config, model.game
    height, width, channels = metadata.frame_shape
    if config.frame_shape != (channels, height, width):
        expected = f"{config.frame_width}x{config.frame_height}"
        raise ValueError(
            f"the model makes frames of {expected}, but those of {where} are {width}x{height} (width x height)"
        )
    if config.num_actions != len(metadata.actions) or game.action_kinds != metadata.actions.kinds:
        count = len(game.action_names) or config.num_actions
        raise ValueError(
            f"the model knows {count} {_what(game.action_kinds)}, but {where} has "
            f"{len(metadata.actions.names)} {_what(metadata.actions.kinds)}"
        )


def _what(kinds: tuple[str, ...]) -> str:
    return "buttons and axes" if kinds else "actions"
