"""Score an agent: the return of whole episodes in the real game, or in the dream."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from dreamrun.envs.agent import FRAME_SKIP, GamesConfig, import_ppo, load_weights, read_agent
from dreamrun.games.ranges import Positive

RANDOM = "random"  # the agent that draws every action at random


@dataclass(frozen=True)
class ScoreAgentConfig(GamesConfig):
    """Options of `scripts.score_agent`."""

    env: Literal["real", "dream"] = "real"  # where it plays
    agent: str = ""  # folder of an agent; or "random", which draws every action at random
    split: Literal["train", "val", "test"] = "test"  # of the real game's levels, or of the dream's prompts
    episodes: Positive = 200  # episodes that count
    num_envs: Positive = 20  # games played at a time, each for equally many episodes: short ones count no more
    frame_skip: Positive | None = None  # game frames that hold an action; None: as in training, 1 for "random"
    deterministic: bool = False  # take the most probable action in place of a drawn one

    def __post_init__(self):
        super().__post_init__()
        if self.episodes % self.num_envs:
            raise ValueError(f"episodes is {self.episodes}: it must be a multiple of num_envs, {self.num_envs}")
        if not self.agent:
            raise ValueError('give --agent DIR, or --agent "random"')
        if self.env == "real" and self.agent == RANDOM and not self.game:
            raise ValueError("a random agent knows no game: give --game NAME")


def score_agent(config: ScoreAgentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of `config.episodes` episodes, both (episodes,)."""
    module = import_ppo()
    settings: dict[str, Any] = {} if config.agent == RANDOM else read_agent(Path(config.agent))
    frame_skip = config.frame_skip or settings.get("frame_skip", FRAME_SKIP)
    game = config.game or settings.get("game", "")
    options = settings.get("game_options", {}) if game == settings.get("game") else {}
    frames = module.stack_frames(config.open_games(game, options, config.split), frame_skip)
    try:
        frames.seed(config.seed)
        ppo = module.make_ppo(frames, config.seed)
        if config.agent != RANDOM:
            load_weights(ppo, Path(config.agent))
        torch.manual_seed(config.seed)
        return _play(frames, ppo, config)
    finally:
        frames.close()


def _play(frames: Any, ppo: Any, config: ScoreAgentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Play until each game has had its share of the episodes."""
    rng, share = np.random.default_rng(config.seed), config.episodes // config.num_envs
    ended: list[list[tuple[float, int]]] = [[] for _ in range(config.num_envs)]
    space = frames.action_space
    space.seed(int(rng.integers(2**31)))
    observations = frames.reset()
    with tqdm(desc=f"{config.agent} in the {config.env} game", total=config.episodes, unit=" episodes") as progress:
        while min(map(len, ended)) < share:
            if config.agent == RANDOM:
                actions = np.stack([space.sample() for _ in range(config.num_envs)])
            else:
                actions, _ = ppo.predict(observations, deterministic=config.deterministic)
            observations, _, _, infos = frames.step(actions)
            for episodes, info in zip(ended, infos, strict=True):
                if "episode" in info and len(episodes) < share:
                    episodes.append((info["episode"]["r"], info["episode"]["l"]))
                    progress.update()
    returns, lengths = np.array(ended).reshape(-1, 2).T
    return returns, lengths
