"""Train a PPO agent in the dream or in the real game. Its folder holds agent.json, agent.pt and metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from dreamrun.data.atomic import atomic_file, write_json
from dreamrun.data.metadata import read_metadata
from dreamrun.data.metrics_log import MetricsLog
from dreamrun.data.run_lock import lock_run_folder
from dreamrun.envs import MAX_EPISODE_STEPS
from dreamrun.envs.dream import DreamVectorEnv
from dreamrun.games.base import SPLIT_LEVELS
from dreamrun.games.factory import make_environment
from dreamrun.games.gymnasium import FRAME_SKIP_RANGE
from dreamrun.games.ranges import Positive, Range, check_ranges
from dreamrun.games.untrusted import read_json

if TYPE_CHECKING:
    from stable_baselines3 import PPO

AGENT_FILE, WEIGHTS_FILE = "agent.json", "agent.pt"
FRAME_SKIP = 1  # in real Pong, holding actions for 4 frames taught nothing in 74 000 frames
NOT_SETTINGS = ("out", "steps", "device", "wandb", "wandb_project", "wandb_entity")  # may differ when training goes on


@dataclass(frozen=True)
class GamesConfig:
    """The games that an agent plays, in the dream or for real."""

    env: Literal["dream", "real"] = "dream"  # where the agent plays
    checkpoint: str = ""  # dream: folder of a checkpoint with an outcome head, or "user/name" on the Hub
    data: Path | None = None  # data set folder: prompts of the dream, and the name of the game to learn
    # real: pong, one of Procgen's sixteen games, gym:ID, ale:GAME or doom:SCENARIO; empty: that of data or agent
    game: str = ""
    num_envs: Positive = 16  # games played at a time
    num_steps: int | None = None  # dream: denoising steps per frame; None: the checkpoint's default
    max_episode_steps: Positive = MAX_EPISODE_STEPS  # dream: episodes are cut off then, as long rollouts drift
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0  # of the agent, the prompts and the noise, or the levels
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # of the dream; the small agent stays on the CPU

    def __post_init__(self):
        check_ranges(self)
        if self.env == "dream" and not (self.checkpoint and self.data):
            raise ValueError("env is dream: give --checkpoint DIR, and --data DIR with the prompts")

    def open_games(self, game: str, options: dict[str, Any], split: str) -> gymnasium.vector.VectorEnv:
        """The games: `game` with its options in levels of a split, or the dream with prompts of the split."""
        if self.env == "real":
            levels = SPLIT_LEVELS[split]
            return make_environment(game, self.num_envs, levels, self.seed, options, import_modules=bool(self.game))
        return DreamVectorEnv(
            self.checkpoint, self.data or "", self.num_envs, split, self.max_episode_steps,
            num_steps=self.num_steps, device=self.device,
        )  # fmt: skip


@dataclass(frozen=True)
class TrainAgentConfig(GamesConfig):
    """Options of `scripts.train_agent`."""

    out: Path = Path("runs/agent")  # the agent's folder; the same command continues there
    steps: Positive = 100_000  # game frames to learn from, over all games
    frame_skip: Positive = FRAME_SKIP  # game frames for which the agent holds an action
    save_every: Positive = 10_240  # game frames between saves
    wandb: Literal["auto", "online", "offline", "off"] = "auto"  # auto: online if logged in, else off
    wandb_project: str = "dreamrun"
    wandb_entity: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.env == "real" and not (self.game or self.data):
            raise ValueError("env is real: give --game NAME, or --data DIR of that game")


def import_ppo() -> Any:
    """The module `envs.stable_baselines`. Raises ValueError if Stable-Baselines3 is not installed."""
    try:
        from dreamrun.envs import stable_baselines
    except ModuleNotFoundError as error:
        raise ValueError(
            f"agents need Stable-Baselines3 ({error}): ./setup.sh --rl, or pip install 'dreamrun[rl]'"
        ) from None
    return stable_baselines


def train_agent(config: TrainAgentConfig) -> None:
    """Train an agent, or continue to train it, up to `config.steps`.

    A training that is killed loses what it learned since the last save. The games begin anew when it continues, so a
    continued training is not the same to the bit as one that was never stopped.

    Raises:
        KeyboardInterrupt: it was stopped, after the agent was saved.
    """
    module = import_ppo()
    with lock_run_folder(config.out):
        metadata = read_metadata(config.data) if config.data else None
        game = config.game or metadata.environment
        same_game = metadata is not None and game == metadata.environment  # another game may have other options
        game_options = dict(metadata.environment_options) if same_game else {}
        games = config.open_games(game, game_options, "train")
        options = {name: value for name, value in asdict(config).items() if name not in NOT_SETTINGS}
        settings = json.loads(json.dumps({**options, "game": game, "game_options": game_options}, default=str))
        continued, wandb_id = (config.out / WEIGHTS_FILE).is_file(), None
        if continued and read_agent(config.out) != settings:
            raise ValueError(f"{config.out} holds an agent of other settings: choose another --out")
        frames = module.stack_frames(games, config.frame_skip)
        frames.seed(config.seed)
        ppo = module.make_ppo(frames, config.seed)
        if continued:
            wandb_id = load_weights(ppo, config.out)
            print(f"continues at frame {ppo.num_timesteps * config.frame_skip} of {config.steps}")
        write_json(config.out / AGENT_FILE, settings)
        wandb_options = (config.wandb, config.wandb_project, config.wandb_entity)
        log = MetricsLog(config.out, ppo.num_timesteps * config.frame_skip, *wandb_options, settings, wandb_id)
        try:
            _learn(ppo, module, config, log)
        finally:
            save_weights(ppo, config.out, log.wandb_id)
            log.close()
            frames.close()


def _learn(ppo: PPO, module: Any, config: TrainAgentConfig, log: MetricsLog) -> None:
    """PPO up to `config.steps`, with a progress bar, metrics after each rollout, and saves."""
    first = saved = ppo.num_timesteps * config.frame_skip
    if first >= config.steps:
        print(f"nothing left to do: {first} of {config.steps} frames are done")
        return
    with tqdm(desc=f"agent in the {config.env} game", total=config.steps, initial=first, unit=" frames") as progress:

        def after_rollout() -> None:
            nonlocal saved
            num_frames = ppo.num_timesteps * config.frame_skip
            episodes, metrics = ppo.ep_info_buffer, {}  # the last hundred
            if episodes:
                metrics["agent/return"] = float(np.mean([episode["r"] for episode in episodes]))
                metrics["agent/episode_steps"] = float(np.mean([episode["l"] for episode in episodes]))
            log.log(num_frames, metrics)
            progress.set_postfix({name.split("/")[1]: f"{value:.3g}" for name, value in metrics.items()}, refresh=False)
            progress.update(num_frames - progress.n)
            if num_frames - saved >= config.save_every:
                saved = num_frames
                save_weights(ppo, config.out, log.wandb_id)

        callback = module.after_each_rollout(after_rollout)
        ppo.learn((config.steps - first) // config.frame_skip, callback=callback, reset_num_timesteps=False)


def save_weights(ppo: PPO, folder: Path, wandb_id: str | None) -> None:
    """Write agent.pt atomically: weights, optimizer and steps. It holds tensors and plain values alone, no code."""
    state = {
        "policy": ppo.policy.state_dict(),
        "optimizer": ppo.policy.optimizer.state_dict(),
        "num_timesteps": ppo.num_timesteps,
        "wandb_id": wandb_id,
    }
    with atomic_file(folder / WEIGHTS_FILE, fsync=True) as path:
        torch.save(state, path)


def load_weights(ppo: PPO, folder: Path) -> str | None:
    """Restore what `save_weights` wrote, and return the ID of the Weights & Biases run."""
    try:
        state = torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True)
        ppo.policy.load_state_dict(state["policy"])
        ppo.policy.optimizer.load_state_dict(state["optimizer"])
        ppo.num_timesteps = int(state["num_timesteps"])
        return state["wandb_id"]
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{folder / WEIGHTS_FILE} cannot be used: {reason:.200}") from None


def read_agent(folder: Path) -> dict[str, Any]:
    """The settings of an agent. Raises ValueError if the folder holds none."""
    path = folder / AGENT_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no agent: train one with `dreamrun train-agent`")
    settings = read_json(path)
    expected = {"game": str, "game_options": dict, "frame_skip": int}
    if not isinstance(settings, dict) or any(type(settings.get(name)) is not kind for name, kind in expected.items()):
        raise ValueError(f"{path} does not describe an agent")
    FRAME_SKIP_RANGE.check(f"frame_skip in {path}", settings["frame_skip"])
    return settings
