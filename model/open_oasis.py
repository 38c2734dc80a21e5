"""Import checkpoints of open-oasis and its CoinRun fork: rename the weights and check the rotary frequencies."""

import re
from typing import Any

import torch
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor

from dreamrun.model.checkpoint import Shape, check_weights
from dreamrun.model.config import ModelConfig
from dreamrun.model.dit import WorldModel

# Prefixes that DDP and torch.compile add to names.
_WRAPPER_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")
# Published name -> name in `WorldModel`. All are applied, in this order.
_RENAMES = (
    (re.compile(r"^x_embedder\.proj\."), "patch_embedding."),
    (re.compile(r"^t_embedder\."), "noise_level_embedding."),
    (re.compile(r"^external_cond\."), "action_embedding."),
    (re.compile(r"^(blocks\.\d+)\.s_"), r"\1.spatial."),
    (re.compile(r"^(blocks\.\d+)\.t_"), r"\1.temporal."),
    (re.compile(r"\.attn\."), ".attention."),
    (re.compile(r"\.adaLN_modulation\."), ".modulation."),
)


def import_state_dict(published: dict[str, Tensor], frame_size: tuple[int, int], window_frames: int) -> WorldModel:
    """A world model of published weights. Their shapes give its config but for frame size, (H, W), and window."""
    _check_tensors(published)
    weights = {_WRAPPER_PREFIXES.sub("", name): tensor for name, tensor in published.items()}
    frequencies = {name: weights.pop(name) for name in list(weights) if name.endswith("rotary_emb.freqs")}
    renamed = {_rename(name): tensor for name, tensor in weights.items()}
    config = _read_config(renamed, frequencies, frame_size, window_frames)
    _check_frequencies(frequencies, config.head_dim)
    shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
    check_weights(lambda: WorldModel(config), shapes, "the published checkpoint")
    model = WorldModel(config)
    model.load_state_dict(renamed)
    return model.eval()


def _check_tensors(published: Any) -> None:
    """Raises ValueError unless it is a dict of floating-point tensors that are stored in full.

    A file of a few bytes could hold a tensor of any size whose strides are 0, or many names of one tensor.
    """
    if not isinstance(published, dict) or not all(isinstance(name, str) for name in published):
        raise ValueError(f"the state dict is a {type(published).__name__}: expected names and tensors")
    for name, tensor in published.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or not tensor.is_floating_point():
            raise ValueError(f"{name:.80} is no floating-point tensor")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name:.80} is on the device {tensor.device}: it holds no numbers")
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in published.values()}
    if sum(tensor.nbytes for tensor in published.values()) > sum(storage.nbytes() for storage in storages.values()):
        raise ValueError("the tensors are larger than what the file stores")


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _read_config(
    weights: dict[str, Tensor], frequencies: dict[str, Tensor], frame_size: tuple[int, int], window_frames: int
) -> ModelConfig:
    try:
        dim, num_channels, patch_size, _ = weights["patch_embedding.weight"].shape
        num_actions = weights["action_embedding.weight"].shape[1]
        head_dim = 2 * len(frequencies["temporal_rotary_emb.freqs"])
        num_heads = dim // head_dim
    except (KeyError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"not a checkpoint of the published layout: {error} is missing or has another shape") from None
    blocks = [int(match.group(1)) for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))]
    return ModelConfig(
        frame_height=frame_size[0],
        frame_width=frame_size[1],
        num_channels=num_channels,
        patch_size=patch_size,
        dim=dim,
        num_blocks=1 + max(blocks, default=0),
        num_heads=num_heads,
        window_frames=window_frames,
        num_actions=num_actions,
        prediction="v",
    )


def _check_frequencies(frequencies: dict[str, Tensor], head_dim: int) -> None:
    expected = {
        "spatial": RotaryEmbedding(dim=head_dim // 2, freqs_for="pixel", max_freq=256).freqs,
        "temporal": RotaryEmbedding(dim=head_dim).freqs,
    }
    for name, published in frequencies.items():
        wanted = expected["spatial" if "s_attn" in name or name.startswith("spatial") else "temporal"].detach()
        if published.shape != wanted.shape or not torch.allclose(published.float(), wanted, rtol=1e-5):
            raise ValueError(f"{name} differs from the rotary frequencies of this network")
