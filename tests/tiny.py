"""Small networks, and commands run in this process."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import torch

from dreamrun import cli
from dreamrun.data.index import split_shards
from dreamrun.data.metadata import read_metadata
from dreamrun.data.records import Record
from dreamrun.data.shards import ShardReader
from dreamrun.games.game import Game
from dreamrun.games.space import ActionSpace
from dreamrun.model import ModelConfig, Sampler, SamplerSettings, WorldModel
from dreamrun.model.reference_sampler import ReferenceSampler

TINY = ModelConfig(
    frame_height=16, frame_width=24, patch_size=8, dim=32, num_blocks=2, num_heads=2, window_frames=6, num_actions=3
)

FULL = replace(TINY, attention="full", schedule="linear", prediction="velocity")

# Four buttons, of which one does nothing, and two axes.
CONTROLS = ActionSpace(
    names=("left", "right", "jump", "fire", "dx", "dy"),
    keys=(("A", "LEFT"), ("D", "RIGHT"), ("SPACE",), ("F",), (), ("I", "K")),
    acting=(0, 1, 2, 4, 5),
    kinds=("button", "button", "button", "button", "axis", "axis"),
    scales=(1.0, 1.0, 1.0, 1.0, 20.0, 20.0),
)

# It trains and dreams in no time on real Pong.
SMALLEST = ModelConfig(patch_size=16, dim=32, num_blocks=1, num_heads=2, window_frames=6, prediction="x0", num_steps=2)


# Options of scripts.evaluate: a checkpoint is evaluated in no time.
LITTLE = (
    "--quick", "--sizes", "num_clips=3", "num_frames=6", "num_states=3", "branch_frames=4", "inverse_dynamics_steps=4",
    "train_records=8", "held_out_records=3", "num_long_rollouts=2", "drift_frames=36", "sweep_clips=2",
    "sweep_frames=4", "sweep_states=2", "sweep_steps=1,2", "sweep_guidance=1.5", "sweep_noise=0,0.1", "timed_frames=2",
    "outcome_clips=6",
)  # fmt: skip


def make_sampler(model: WorldModel, num_steps: int | None = None, cache: bool = True, **settings) -> Sampler:
    """A sampler with these settings, with a cache or without one."""
    return (Sampler if cache else ReferenceSampler)(model, SamplerSettings(num_steps=num_steps, **settings))


def random_model(config: ModelConfig = TINY, seed: int = 0, game: Game | None = None) -> WorldModel:
    """All weights random: the published initialisation puts out exactly zero, so that tests on it prove nothing."""
    torch.manual_seed(seed)
    model = WorldModel(config, game).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def random_inputs(config: ModelConfig = TINY, batch: int = 2, num_frames: int | None = None, seed: int = 0):
    """Frames, noise levels and one-hot actions."""
    generator = torch.Generator().manual_seed(seed)
    num_frames = num_frames or config.window_frames
    frames = torch.rand(batch, num_frames, *config.frame_shape, generator=generator) * 2 - 1
    levels = torch.rand(batch, num_frames, generator=generator)
    actions = torch.eye(config.num_actions)[torch.randint(config.num_actions, (batch, num_frames), generator=generator)]
    return frames, levels, actions


def records_of(folder: Path, split: str = "train") -> list[Record]:
    """All records of a split, in the order of its shards."""
    paths = split_shards(folder, split)
    reader = ShardReader(paths, read_metadata(folder))
    return [reader.read(shard, number) for shard in range(len(paths)) for number in range(reader.num_records(shard))]


@contextmanager
def in_this_process(*_):
    """In place of `data.workers.worker_pool`: a thread, so that a test can reach into what it does."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def command(monkeypatch, capsys, name: str, *arguments) -> tuple[int, str, str]:
    """Run a command as its module's `__main__` would; exit code, standard output, standard error."""
    module = importlib.import_module(f"dreamrun.{name}")
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    code = 0
    try:
        cli.run(module.main)
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def config_class(module: ModuleType) -> type:
    """The dataclass of a command's options, which its `main` takes."""
    (config,) = (hint for name, hint in get_type_hints(module.main, include_extras=True).items() if name != "return")
    return config


def succeeded(result: tuple[int, str, str]) -> str:
    """What a command that must succeed printed; `result` is that of `command`."""
    code, out, err = result
    assert code == 0, err
    return out


def refused(result: tuple[int, str, str], *words: str) -> None:
    """A user's mistake: exit code 2, no traceback, one line of error that holds the words."""
    assert_one_line(result[0], result[2], *words)


def assert_one_line(code: int, err: str, *words: str) -> None:
    """A user's mistake: exit code 2, no traceback, one line of error that holds the words."""
    assert code == 2, err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, err
    for word in words:
        assert word in errors[0], errors[0]
