"""Speed of the dream as an environment, beside the real game."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from tqdm import tqdm

from dreamrun.benchmarks.machine import NetworkConfig
from dreamrun.data.metadata import read_metadata
from dreamrun.envs.dream import DreamVectorEnv
from dreamrun.games.factory import open_recorded
from dreamrun.games.ranges import Positive
from dreamrun.model.inference import choose_device, describe_device

WARM_UP_STEPS = 20  # the window of pico and nano fills


@dataclass(frozen=True)
class EnvironmentConfig(NetworkConfig):
    """Environment steps a second by number of games, in the dream and in the real game."""

    preset: str = "pico"  # network with random weights and an outcome head
    data: Path = Path("samples/pong")  # data set with the prompts
    split: str = "test"
    num_envs: tuple[Positive, ...] = (1, 4, 16)  # games stepped together; one measurement each
    steps: Positive = 30  # steps to measure, of all games together
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        if not self.num_envs:
            raise ValueError("num_envs is empty: give at least one number of games")


def measure(config: EnvironmentConfig) -> dict[str, Any]:
    """Game frames a second, over all games, and how many times as many the real game gives."""
    metadata = read_metadata(config.data)
    model = config.load_model(config.data, outcomes=True)
    print(f"device: {describe_device(choose_device(config.device))}")
    results: dict[str, Any] = {"num_steps": config.num_steps or model.config.num_steps}
    for num_envs in config.num_envs:
        dream = DreamVectorEnv(
            model, config.data, num_envs, config.split, num_steps=config.num_steps, device=config.device
        )
        real = open_recorded(metadata, num_envs)
        rates = [_frames_per_sec(games, config.steps) for games in (dream, real)]
        results |= {
            f"dream_frames_per_sec_{num_envs}": rates[0],
            f"real_frames_per_sec_{num_envs}": rates[1],
            f"real_over_dream_{num_envs}": rates[1] / rates[0],
        }
    return results


def _frames_per_sec(games: gymnasium.vector.VectorEnv, num_steps: int) -> float:
    games.reset(seed=0)
    games.action_space.seed(0)
    actions = [games.action_space.sample() for _ in range(num_steps)]
    for action in (actions * WARM_UP_STEPS)[:WARM_UP_STEPS]:
        games.step(action)
    times = []
    for action in tqdm(actions, f"{games.num_envs} games", leave=False):
        start = time.perf_counter()
        games.step(action)
        times.append(time.perf_counter() - start)
    games.close()
    return games.num_envs / float(np.median(times))
