"""The dream as a Gymnasium environment, for one game or for many that share a batch.

Shapes: N games, H x W x C pixels.
"""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from dreamrun.data.batch import to_float, to_uint8
from dreamrun.data.clips import draw_clips
from dreamrun.data.dataset import ClipDataset
from dreamrun.envs import MAX_EPISODE_STEPS
from dreamrun.games.base import gym_space
from dreamrun.games.space import ActionSpace
from dreamrun.model.dit import WorldModel
from dreamrun.model.game_views import check_model_fits_data
from dreamrun.model.inference import choose_device, prepare_for_inference
from dreamrun.model.sampler import Sampler, SamplerSettings

MAX_SEED = 2**63 - 1  # of the prompt and the noise of an episode


class DreamVectorEnv(gymnasium.vector.VectorEnv):
    """N rollouts of a world model with an outcome head, generated together.

    An episode starts from a few frames of recorded play, the prompt. Its first observation is the last frame of the
    prompt. The model generates every later one. The reward is the expected reward of the outcome head, and the episode
    ends with the probability that the head gives. An episode that ends is reset in the same step
    (`AutoresetMode.SAME_STEP`): the observation is then the first one of the next episode, and `info["final_obs"]`
    holds the last frame of the old one.

    `info["prompt_record"]`, `info["prompt_start"]` and `info["noise_seed"]` (N,) say what each episode began with. A
    `Sampler` with this prompt, this seed and the same actions generates the same frames.

    Args:
        checkpoint: folder of a checkpoint with an outcome head, or "user/name" on the Hub; or the model itself.
        data: data set folder with the prompts.
        num_envs: N.
        split: of the data set.
        max_episode_steps: an episode is truncated after so many steps: long rollouts drift. None: never.
        num_prompt_frames: real frames that the model knows before the first step.
        num_steps: denoising steps per frame; None: the model's default.
        device: "auto", "cpu" or "cuda".
        render_mode: "rgb_array": `render` returns the frames.

    Raises:
        ValueError: no checkpoint, no outcome head, data that does not fit it, or an option out of range.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        checkpoint: str | Path | WorldModel,
        data: str | Path,
        num_envs: int = 1,
        split: str = "train",
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
        num_prompt_frames: int = 4,
        num_steps: int | None = None,
        device: str = "auto",
        render_mode: str | None = None,
    ):
        for name, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode is {render_mode!r}: choose "rgb_array" or None')
        model = checkpoint if isinstance(checkpoint, WorldModel) else WorldModel.from_pretrained(checkpoint)
        if not model.config.outcomes:
            raise ValueError(
                f"{checkpoint!s:.200} has no outcome head, so its dream has no rewards: train one with "
                "`dreamrun train --outcomes head --init-from CHECKPOINT`"
            )
        window = model.config.window_frames
        if not 1 <= num_prompt_frames < max(2, window):
            raise ValueError(f"num_prompt_frames is {num_prompt_frames}: it must lie in 1 to {max(1, window - 1)}")
        self._prompts = ClipDataset(data, split, num_prompt_frames)
        check_model_fits_data(model, self._prompts.metadata, data)
        self._space = self._prompts.metadata.actions
        self.metadata = {**self.metadata, "render_fps": self._prompts.metadata.fps}
        self.sampler = Sampler(prepare_for_inference(model, choose_device(device)), SamplerSettings(num_steps))

        self.num_envs, self.max_episode_steps, self.render_mode = num_envs, max_episode_steps, render_mode
        self.single_observation_space = gymnasium.spaces.Box(0, 255, self._prompts.metadata.frame_shape, np.uint8)
        self.single_action_space = gym_space(self._space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        # Of the prompts, the noise seeds and the ends of each game.
        self.generators = [np.random.default_rng() for _ in range(num_envs)]
        self.frames = np.zeros(self.observation_space.shape, np.uint8)  # the current ones
        self._steps = np.zeros(num_envs, np.int64)  # of each episode
        self._origin = {name: np.zeros(num_envs, np.int64) for name in ("prompt_record", "prompt_start", "noise_seed")}

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every game.

        Args:
            seed: game i gets seed + i, or `seed[i]`; None: its random generator goes on.
            options: `{"reset_mask": (N,) bool}` restarts these games only.

        Returns:
            Frames, uint8 (N, H, W, C), and info.
        """
        if seed is None or np.ndim(seed) == 0:
            seeds = [None if seed is None else int(seed) + game for game in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} games")
        for game, game_seed in enumerate(seeds):
            if game_seed is not None:
                self.generators[game], _ = seeding.np_random(game_seed)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"reset_mask is {mask!r:.60}: expected {self.num_envs} bools, one of them true")
        self.start_episodes(np.flatnonzero(mask))
        return self.frames.copy(), self.info()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Generate the next frame of every game.

        Args:
            actions: N of `single_action_space`.

        Returns:
            Frames, uint8 (N, H, W, C); rewards, float32 (N,); terminations and truncations, bool (N,); info.
        """
        rewards, terminations, truncations = self.advance(actions)
        ended, final = terminations | truncations, {}
        if ended.any():
            final_obs = np.full(self.num_envs, None, object)
            for game in np.flatnonzero(ended):
                final_obs[game] = self.frames[game].copy()
            final = {"final_obs": final_obs, "_final_obs": ended, "final_info": self.info(), "_final_info": ended}
            self.start_episodes(np.flatnonzero(ended))
        return self.frames.copy(), rewards, terminations, truncations, {**self.info(), **final}

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`step` without the reset of games that end: rewards, terminations and truncations, each (N,)."""
        if not self.sampler.slots:
            raise ValueError("step before reset: call reset first")
        vectors = torch.from_numpy(self._space.vectors(recorded_actions(self._space, actions)))
        outcome = self.sampler.outcome(vectors)
        self.frames = to_uint8(self.sampler.step(vectors))
        self._steps += 1
        draws = np.array([generator.random() for generator in self.generators])
        terminations = draws < outcome.end.cpu().numpy()
        truncations = ~terminations & (self._steps >= (self.max_episode_steps or np.inf))
        return outcome.reward.cpu().numpy(), terminations, truncations

    def start_episodes(self, games: np.ndarray) -> None:
        """Draw a prompt for each of these games, and put it into the game's slot of the sampler."""
        num_prompt = self._prompts.clip_frames
        frames = np.zeros((len(games), num_prompt, *self.frames.shape[1:]), np.uint8)
        actions = self._space.unknown(len(games), num_prompt)
        for row, game in enumerate(games):
            prompt_seed, noise_seed = self.generators[game].integers(MAX_SEED, size=2)
            clip = draw_clips(self._prompts, 1, num_prompt, num_prompt, int(prompt_seed))
            frames[row], actions[row] = clip.frames[0], clip.actions[0]
            origin = (clip.record_ids[0], clip.starts[0], noise_seed)
            for name, value in zip(self._origin, origin, strict=True):
                self._origin[name][game] = value
        vectors = torch.from_numpy(self._space.vectors(actions))
        self.sampler.reset(to_float(frames), vectors, games.tolist(), self._origin["noise_seed"][games].tolist())
        self.frames[games], self._steps[games] = frames[:, -1], 0

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frame of each game, uint8 (H, W, C)."""
        return tuple(self.frames.copy()) if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        """End all rollouts."""
        self.sampler.free(self.sampler.slots)

    def info(self) -> dict[str, np.ndarray]:
        """What the current episodes began with, each (N,), and Gymnasium's masks of games for which that is known."""
        info = {name: values.copy() for name, values in self._origin.items()}
        return info | {f"_{name}": np.ones(self.num_envs, bool) for name in info}


def recorded_actions(space: ActionSpace, actions: np.ndarray) -> np.ndarray:
    """N actions of `gym_space` -> recorded actions: ids (N,), or vectors (N, names) with buttons of 0 and 1."""
    actions = np.asarray(actions)
    if space.discrete:
        if actions.ndim != 1 or actions.dtype.kind not in "iu" or not np.isin(actions, range(len(space.names))).all():
            raise ValueError(f"actions are {actions!r:.60}: expected integers from 0 to {len(space.names) - 1}")
        return actions.astype(np.int32)
    if actions.ndim != 2 or actions.shape[1] != len(space.names) or not np.isfinite(actions.astype(float)).all():
        raise ValueError(f"actions are {actions!r:.60}: expected {len(space.names)} finite numbers for each game")
    is_button = np.array([kind == "button" for kind in space.kinds])
    return np.where(is_button, actions > 0.5, actions.clip(-1, 1)).astype(np.float32)


class DreamEnv(gymnasium.Env):
    """One rollout of a world model. Arguments as for `DreamVectorEnv`, without `num_envs` and `max_episode_steps`.

    `gymnasium.make` truncates episodes, after MAX_EPISODE_STEPS unless told otherwise. This class alone never does.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, checkpoint: str | Path | WorldModel, data: str | Path, **options: Any):
        self._games = DreamVectorEnv(checkpoint, data, num_envs=1, max_episode_steps=None, **options)
        self.metadata = {**self.metadata, "render_fps": self._games.metadata["render_fps"]}
        self.observation_space = self._games.single_observation_space
        self.action_space = self._games.single_action_space
        self.render_mode = self._games.render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: its first frame, uint8 (H, W, C), and info."""
        super().reset(seed=seed)
        self._games.generators = [self.np_random]
        self._games.reset()
        return self._games.frames[0].copy(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Generate the next frame; after the end of an episode call `reset`."""
        rewards, terminations, truncations = self._games.advance(np.asarray(action)[None])
        frame = self._games.frames[0].copy()
        return frame, float(rewards[0]), bool(terminations[0]), bool(truncations[0]), self._info()

    def render(self) -> np.ndarray | None:
        """The current frame, uint8 (H, W, C)."""
        frames = self._games.render()
        return frames[0] if frames else None

    def close(self) -> None:
        """End the rollout."""
        self._games.close()

    def _info(self) -> dict[str, int]:
        return {name: int(values[0]) for name, values in self._games.info().items() if not name.startswith("_")}
