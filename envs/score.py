"""Score an agent: the return of whole episodes in the real game, or in the dream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from dreamrun.envs import MAX_EPISODE_STEPS
from dreamrun.envs.agent import FRAME_SKIP, import_ppo, load_weights, read_agent, real_games
from dreamrun.envs.dream import DreamVectorEnv

RANDOM = "random"  # the agent that draws every action at random


@dataclass(frozen=True)
class ScoreAgentConfig:
    """Options of `scripts.score_agent`."""

    agent: str = ""  # folder of an agent; or "random", which draws every action at random
    env: Literal["real", "dream"] = "real"  # where it plays
    game: str = ""  # real: the game; empty: the one that the agent knows
    split: str = "test"  # levels of the real game, or records with the prompts of the dream: train, val or test
    episodes: int = 200  # episodes that count
    num_envs: int = 20  # games played at a time; each plays equally many episodes, so that short ones do not count more
    checkpoint: str = ""  # dream: folder of a checkpoint with an outcome head, or "user/name" on the Hub
    data: Path | None = None  # dream: data set folder with the prompts
    frame_skip: int | None = None  # game frames for which an action is held; None: as in training, or 1 for "random"
    num_steps: int | None = None  # dream: denoising steps per frame; None: the checkpoint's default
    max_episode_steps: int = MAX_EPISODE_STEPS  # dream: steps after which an episode is cut off
    deterministic: bool = False  # take the most probable action in place of a drawn one
    seed: int = 0  # of the levels or the prompts, and the actions
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self):
        for name in ("episodes", "num_envs", "frame_skip", "max_episode_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.episodes % self.num_envs:
            raise ValueError(f"episodes is {self.episodes}: it must be a multiple of num_envs, {self.num_envs}")
        if self.split not in ("train", "val", "test"):
            raise ValueError(f"split is {self.split!r:.40}: choose train, val or test")
        if not self.agent:
            raise ValueError('give --agent DIR, or --agent "random"')
        if self.env == "dream" and not (self.checkpoint and self.data):
            raise ValueError("env is dream: give --checkpoint DIR, and --data DIR with the prompts")
        if self.env == "real" and self.agent == RANDOM and not self.game:
            raise ValueError("a random agent knows no game: give --game NAME")


def score_agent(config: ScoreAgentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of `config.episodes` episodes, both (episodes,).

    Raises:
        ValueError: no agent, no game, or they do not fit together.
    """
    module = import_ppo()
    settings: dict[str, Any] = {} if config.agent == RANDOM else read_agent(Path(config.agent))
    frame_skip = config.frame_skip or settings.get("frame_skip", FRAME_SKIP)
    frames = module.stack_frames(_games(config, settings), frame_skip)
    try:
        frames.seed(config.seed)
        ppo = module.make_ppo(frames, config.seed)
        if config.agent != RANDOM:
            load_weights(ppo, Path(config.agent))
        torch.manual_seed(config.seed)
        return _play(frames, ppo, config)
    finally:
        frames.close()


def _games(config: ScoreAgentConfig, settings: dict[str, Any]) -> gymnasium.vector.VectorEnv:
    if config.env == "real":
        game = config.game or settings["game"]
        options = settings.get("game_options", {}) if game == settings.get("game") else {}
        return real_games(game, options, config.split, config.num_envs, config.seed)
    return DreamVectorEnv(
        config.checkpoint, config.data or "", config.num_envs, config.split, config.max_episode_steps,
        num_steps=config.num_steps, device=config.device,
    )  # fmt: skip


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
