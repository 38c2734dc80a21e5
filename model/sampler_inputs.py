"""Checks of what users give to a `Sampler`. They cost next to nothing beside a frame."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from dreamrun.model.config import MAX_GUIDANCE, ModelConfig

MAX_STEPS = 1000  # denoising steps per frame
MAX_SEED = 2**63 - 1
MAX_SLOTS = 4096  # the KV cache has room for all slots up to the highest one
MAX_PIXEL = 1.01  # 1, and some room for resizing and bfloat16


def validate_settings(num_steps: int, guidance: float) -> None:
    """Raises ValueError if the number of denoising steps or the guidance scale is out of range."""
    if type(num_steps) is not int or not 1 <= num_steps <= MAX_STEPS:
        raise ValueError(f"num_steps is {num_steps}: expected 1 to {MAX_STEPS} denoising steps")
    if not 0 <= guidance <= MAX_GUIDANCE:  # also true for NaN
        raise ValueError(f"guidance is {guidance}: it must lie in 0 to {MAX_GUIDANCE:g}")


def validate_prompt(frames: Tensor, actions: Tensor | None, config: ModelConfig) -> Tensor:
    """Check a prompt's frames and actions, and return the actions: zeros if they are None.

    Raises:
        ValueError: they are no tensors, do not fit the model, or hold other numbers than frames and actions have.
    """
    if not isinstance(frames, Tensor):
        raise ValueError(f"the prompt is {type(frames).__name__}: expected a torch.Tensor")
    if frames.ndim != 5 or frames.shape[2:] != config.frame_shape or not frames.shape[0]:
        raise ValueError(
            f"prompt of shape {tuple(frames.shape)}: expected (rollouts, frames, *{config.frame_shape}), "
            "at least 1 rollout"
        )
    expected = (*frames.shape[:2], config.num_actions)
    if actions is None:
        actions = torch.zeros(expected)
    validate_actions(actions)
    if actions.shape != expected:
        raise ValueError(f"prompt actions of shape {tuple(actions.shape)}: expected {expected}")
    _validate_frames(frames)
    return actions


def fit_prompt(
    frames: Tensor, actions: Tensor | None, config: ModelConfig, resize: bool
) -> tuple[Tensor, Tensor, ModelConfig]:
    """As `prompt_window`, with the config for the prompt's frame size.

    Args:
        resize: take frames of any size that the network can have; False: that of the config alone.
    """
    if resize and isinstance(frames, Tensor) and frames.ndim == 5 and frames.shape[2] == config.num_channels:
        config = config.resized(*frames.shape[-2:])
    return *prompt_window(frames, actions, config), config


def prompt_window(frames: Tensor, actions: Tensor | None, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Check a prompt as `validate_prompt` does, and return its last frames and actions that fit beside a new frame."""
    actions = validate_prompt(frames, actions, config)
    max_context = max(1, config.window_frames - 1)
    if frames.shape[1] > max_context:
        message = f"prompt of {frames.shape[1]} frames: only its last {max_context} fit the window"
        warnings.warn(message, stacklevel=5)  # where `Sampler.reset` is called, through inference_mode
    return frames[:, -max_context:], actions[:, -max_context:]


def _validate_frames(frames: Tensor) -> None:
    """Raises ValueError unless frames are floats in [-1, 1], up to rounding."""
    remedy = "expected floats in [-1, 1], which data.pixels.to_float makes of uint8"
    if not frames.is_floating_point():
        raise ValueError(f"prompt of {frames.dtype}: {remedy}")
    if frames.numel() and not frames.abs().amax() <= MAX_PIXEL:  # also false for NaN
        low, high = (value.item() for value in frames.aminmax())
        raise ValueError(f"the prompt's pixels run from {low:g} to {high:g}: {remedy}")


def validate_actions(actions: Tensor) -> None:
    """Raises ValueError unless actions are finite real numbers. Does not wait for a GPU: that would slow down steps."""
    if not isinstance(actions, Tensor):
        raise ValueError(f"actions are {type(actions).__name__}: expected a torch.Tensor")
    if actions.is_complex() or (not actions.is_cuda and not actions.isfinite().all()):
        raise ValueError("the actions are not finite real numbers: give zeros where an action is unknown")


def validate_step(
    actions: Tensor, slots: Sequence[int] | None, used_slots: list[int], config: ModelConfig
) -> list[int]:
    """The slots of a step; None: all used ones. Raises ValueError unless they have a prompt and the actions fit."""
    validate_actions(actions)
    slots = used_slots if slots is None else validate_slots(slots, len(actions))
    if not slots or not set(slots) <= set(used_slots):
        missing = sorted(set(slots) - set(used_slots))
        raise ValueError(f"step before reset: give {f'slots {missing}' if missing else 'the sampler'} a prompt first")
    expected = (len(slots), config.num_actions)
    if actions.shape != expected:
        raise ValueError(f"actions of shape {tuple(actions.shape)}: expected {expected}")
    return slots


def validate_seed(seed: int) -> int:
    """The seed as int. Raises ValueError unless it is an integer that torch's generators take."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise ValueError(f"seed is {seed!r:.40}: expected an integer from 0 to {MAX_SEED}")
    return number


def validate_slots(slots: Sequence[int], num_slots: int) -> list[int]:
    """The slots as a list. Raises ValueError unless they are `num_slots` different ones."""
    try:
        indices = [operator.index(slot) for slot in slots]
    except TypeError:
        raise ValueError(f"slots are {slots!r:.60}: expected integers") from None
    in_range = 0 <= min(indices, default=0) <= max(indices, default=0) < MAX_SLOTS
    if not in_range or len(indices) != num_slots or len(set(indices)) != num_slots:
        raise ValueError(f"slots {indices!r:.60}: expected {num_slots} different ones, from 0 to {MAX_SLOTS - 1}")
    return indices
