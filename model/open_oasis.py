"""Import checkpoints of open-oasis and its CoinRun fork: rename the weights and check the rotary frequencies."""

import re
from pathlib import Path
from typing import Any

import torch
from rotary_embedding_torch import RotaryEmbedding
from safetensors.torch import load_file
from torch import Tensor

from dreamrun.model.checkpoint import Shape, check_weights
from dreamrun.model.config import ModelConfig
from dreamrun.model.dit import WorldModel

FIRST_WEIGHT = "x_embedder.proj.weight"  # of every network of the published layout
# What torch.compile, FSDP and activation checkpointing put into names.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
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


def read_published(path: Path) -> dict[str, Any]:
    """The entries of a network in a file: safetensors, or what torch has saved.

    The state dict may be the file itself, or one of its entries, such as "model", "state_dict" (Lightning) or "ema".
    The names may have a prefix, such as "module." or "diffusion_model.". Trained weights come before averaged ones.
    """
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    try:
        content = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds of errors
        # The whole message would advise to load the file without weights_only, which runs code that it brings.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds a {found[1]}: save its state dict alone" if found else type(error).__name__
        raise ValueError(f"{path} is not a checkpoint of tensors: {reason}") from None
    entries: dict[Any, Any] = content if isinstance(content, dict) else {}
    first = [entries[name] for name in ("model", "state_dict") if name in entries]
    for entry in (*first, entries, *entries.values()):
        named = entry.items() if isinstance(entry, dict) else ()
        weights = {_WRAPPERS.sub("", name): value for name, value in named if isinstance(name, str)}
        prefixes = [name.removesuffix(FIRST_WEIGHT) for name in weights if name.endswith(FIRST_WEIGHT)]
        if prefixes:
            prefix = min(prefixes, key=lambda text: ("ema" in text, len(text)))
            return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    raise ValueError(f"{path} is not a checkpoint of the published layout: {FIRST_WEIGHT} is missing")


def import_state_dict(published: dict[str, Tensor], frame_size: tuple[int, int], window_frames: int) -> WorldModel:
    """A world model of published weights. Their shapes give its config but for frame size, (H, W), and window."""
    weights = {name: value for name, value in published.items() if not _is_counter(value)}
    _check_tensors(weights)
    rotary = {name: weights.pop(name) for name in list(weights) if "rotary_emb." in name}
    frequencies = {name: tensor for name, tensor in rotary.items() if name.endswith(".freqs")}
    renamed = {_rename(name): tensor for name, tensor in weights.items()}
    config = _read_config(renamed, frequencies, frame_size, window_frames)
    _check_frequencies(frequencies, config.head_dim)
    shapes: dict[str, Shape] = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
    check_weights(lambda: WorldModel(config), shapes, "the published checkpoint")
    model = WorldModel(config)
    model.load_state_dict(renamed)
    return model.eval()


def _is_counter(value: Any) -> bool:
    """Whether it counts something, such as `num_batches_tracked` or `step`: it is no weight."""
    is_number = isinstance(value, Tensor) and value.ndim == 0 and not value.is_floating_point()
    return is_number or isinstance(value, int | float | str | None)


def _check_tensors(published: dict[str, Any]) -> None:
    """Raises ValueError unless all are floating-point tensors that are stored in full.

    A file of a few bytes could hold a tensor of any size whose strides are 0, or many names of one tensor.
    """
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
        # A checkpoint in 16 bits has rounded them, and may have become float32 again.
        kinds = [k for k in (torch.bfloat16, torch.float16) if torch.equal(published.to(k).to(published), published)]
        tolerance = max([1e-5, *(torch.finfo(kind).eps / 2 for kind in kinds)])
        if published.shape != wanted.shape or not torch.allclose(published.float(), wanted, rtol=tolerance):
            raise ValueError(f"{name} differs from the rotary frequencies of this network")
