"""Checkpoint folders and the Hugging Face Hub: load and save a network.

A checkpoint folder holds `config.json` (`ModelConfig`), `game.json` (`Game`) and `model.safetensors` (weights).
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn

from dreamrun.games.game import Game
from dreamrun.games.space import unnamed_actions
from dreamrun.games.untrusted import read_json
from dreamrun.model.config import ModelConfig
from dreamrun.shipped import find_shipped

CONFIG_FILE, GAME_FILE, WEIGHTS_FILE = "config.json", "game.json", "model.safetensors"
LATEST, BEST = "latest", "best"  # in the checkpoints/ of a run: to the newest one and to that of the lowest loss
MAX_JSON_BYTES = 2**23  # of config.json and of game.json
MAX_HEADER_BYTES = 2**24  # of model.safetensors
# Of the game, in the config.json of old checkpoints.
_OLD_GAME_FIELDS = {"environment", "environment_options", "action_names", "action_keys", "acting_actions", "fps"}
_OLD_GAME_FIELDS |= {"action_kinds", "action_scales"}
FLOATING_POINT_DTYPES = ("F64", "F32", "F16", "BF16")  # of weights, as safetensors names them


class PretrainedModule(nn.Module):
    """A network with `save_pretrained(folder)` and `from_pretrained(folder or "user/name")`.

    A subclass is created by `cls(config, game)`.
    """

    def __init__(self, config: ModelConfig, game: Game | None = None):
        super().__init__()
        self.config = config
        self.game = game or unknown_game(config)  # not used by the network; saved with it

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a checkpoint folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_config(folder, self.config, self.game)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        safetensors.torch.save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        with suppress(OSError):  # some file systems know no modes
            shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)  # safetensors lets only the owner read

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub_options: Any) -> Self:
        """Load a checkpoint folder, a shipped checkpoint by name, or a "user/name" repository of the Hub.

        The model is on the CPU, in eval mode.

        Args:
            hub_options: of `huggingface_hub.snapshot_download`, such as `revision`.

        Raises:
            ValueError: no checkpoint there, or weights that do not fit its config.
        """
        name = str(pretrained_model_name_or_path)
        folder = find_shipped(pretrained_model_name_or_path, "checkpoints")
        if not folder.is_dir():
            if len(folder.parts) > 1 and folder.parent.is_dir():  # clearly a path, so do not ask the Hub
                raise ValueError(f"no checkpoint at {name}: train one with `dreamrun train`, or name another one")
            folder = _download(name, **hub_options)
        config, game = load_config(folder)
        try:
            check_weights(lambda: cls(config, game), _read_shapes(folder / WEIGHTS_FILE), str(folder))
            weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{folder / WEIGHTS_FILE} is damaged: {error}") from None
        model = cls(config, game)
        model.load_state_dict(weights)
        return model.eval()


def save_config(folder: Path, config: ModelConfig, game: Game) -> None:
    """Write `config.json` and `game.json`."""
    for name, values in ((CONFIG_FILE, config.to_dict()), (GAME_FILE, game.to_dict())):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of the names and weights of a model. It identifies a checkpoint, wherever it is stored."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_config(folder: Path) -> tuple[ModelConfig, Game]:
    """Read `config.json` and `game.json`. In old checkpoints `config.json` holds the fields of both."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            latest = folder / "checkpoints" / "latest"
            hint = f"; it is a run: name its newest checkpoint, {latest}" if latest.exists() else ""
            raise ValueError(f"{folder} is not a checkpoint: it has no {name}{hint}")
    with _name_damaged_file(folder / CONFIG_FILE):
        values = read_json(folder / CONFIG_FILE, MAX_JSON_BYTES)
        old_game_values = {name: values.pop(name) for name in _OLD_GAME_FIELDS & values.keys()}
        config = ModelConfig.from_dict(values)
    game_path = folder / GAME_FILE
    with _name_damaged_file(game_path if game_path.is_file() else folder / CONFIG_FILE):
        values = read_json(game_path, MAX_JSON_BYTES) if game_path.is_file() else old_game_values
        game = Game.from_dict(values, unknown_game(config))
        for part in game.games or (game,):
            end = part.action_slice.stop
            if end > config.num_actions or (part is game and end < config.num_actions):
                raise ValueError(f"{len(part.actions.names)} action names for num_actions {config.num_actions}")
            config.resized(*part.frame_shape[:2])
    return config, game


def unknown_game(config: ModelConfig) -> Game:
    """The game of a network of which only the sizes are known."""
    shape = (config.frame_height, config.frame_width, config.num_channels)
    return Game(frame_shape=shape, actions=unnamed_actions(config.num_actions))


@contextmanager
def _name_damaged_file(path: Path) -> Iterator[None]:
    """Turn an error in the content of config.json or game.json into a ValueError that names the file."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        content = "the description of a game" if path.name == GAME_FILE else "the config of a world model"
        raise ValueError(f"{path} is not {content}: {error}") from None


def check_finite(model: nn.Module) -> None:
    """Raises ValueError, which names the first one, if weights are infinite or NaN."""
    checks = {name: weight.isfinite().all() for name, weight in model.named_parameters()}
    finite = torch.stack([*checks.values()]).cpu().tolist() if checks else []  # one wait for a GPU
    broken = [name for name, is_finite in zip(checks, finite, strict=True) if not is_finite]
    if broken:
        raise ValueError(f"weights are not finite: {broken[0]} and {len(broken) - 1} more")


Shape = tuple[int, ...] | None  # of a weight; None if it holds no floating-point numbers


def check_weights(make_network: Callable[[], nn.Module], found: dict[str, Shape], source: str) -> None:
    """Raises ValueError, which names the weights, unless those that were found are all that a network has.

    Args:
        make_network: called for its shapes alone: a config from a stranger may ask for more memory than there is.
        found: name -> shape.
        source: where the weights come from.
    """
    with torch.device("meta"):
        expected = {name: tuple(weight.shape) for name, weight in make_network().state_dict().items()}
    problems = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "of another shape or type": {name for name in expected.keys() & found.keys() if expected[name] != found[name]},
    }
    described = "; ".join(_list_names(problem, names) for problem, names in problems.items() if names)
    if described:
        raise ValueError(f"weights of {source} do not fit: {described}")


def _list_names(problem: str, names: set[str], limit: int = 4) -> str:
    """`2 missing (a, b)`, with at most `limit` names."""
    shown = ", ".join(name[:80] for name in sorted(names)[:limit]) + (", ..." if len(names) > limit else "")
    return f"{len(names)} {problem} ({shown})"


def _read_shapes(path: Path) -> dict[str, Shape]:
    """The shapes of the weights in a file, from its header."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"{path} is damaged: its header has {header_bytes} bytes")
    with safetensors.safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        return {
            name: tuple(part.get_shape()) if part.get_dtype() in FLOATING_POINT_DTYPES else None
            for name, part in slices.items()
        }


def _download(repository: str, **hub_options) -> Path:
    """Download a repository of the Hub, and return its local folder."""
    files = [CONFIG_FILE, GAME_FILE, WEIGHTS_FILE]
    try:
        return Path(snapshot_download(repository, allow_patterns=files, **hub_options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"no checkpoint at {repository}: no such folder, and none on the Hub either ({reason})"
        ) from None
