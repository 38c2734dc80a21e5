"""Many rollouts on one model: those that are stepped together share a batch.

Shapes: T frames, H x W pixels, C channels, A numbers in an action vector.
"""

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from dreamrun.data.batch import to_float, to_uint8
from dreamrun.editing.masked_clip import MaskedClip, complete
from dreamrun.games.space import ActionSpace
from dreamrun.model import ModelConfig, Sampler, WorldModel
from dreamrun.model.game_views import select_game
from dreamrun.model.modulation_table import MAX_CACHED_ACTIONS
from dreamrun.model.options import RANGES, ResolvedSettings
from dreamrun.play.actions import playable_actions


@dataclass(frozen=True)
class Prompt:
    """The frames that a rollout starts from."""

    frames: np.ndarray  # uint8 (T, H, W, C), at most as many as fit in the window
    actions: np.ndarray  # recorded actions (T,) or (T, names); actions[t] leads into frames[t]
    record_id: int | None = None  # the record that the frames are from; None: an image of the player
    moment: int | None = None  # index of the last frame in that record


@dataclass(eq=False)
class Rollout:
    """One player's rollout and everything needed to generate it again."""

    prompt: Prompt
    settings: ResolvedSettings
    slot: int  # in the sampler of its settings
    weights_hash: str  # of the model that the rollout started with
    actions: list[int | np.ndarray] = field(default_factory=list)  # recorded actions since the prompt
    recent: deque[np.ndarray] = field(default_factory=deque)  # its last frames, half a window
    weights_changed: bool = False  # the pool has loaded other weights since the start

    @property
    def sampler_key(self) -> ResolvedSettings:
        """What it shares with all rollouts of its sampler: the settings with seed 0, as each slot has its own."""
        return replace(self.settings, seed=0)


@dataclass(frozen=True)
class StepResult:
    """The outcome of one step of one rollout."""

    frame_index: int  # counts generated frames from 0; the prompt does not count
    action: int | np.ndarray
    frame: np.ndarray  # uint8 (H, W, C), generated
    # Of the real game, if it runs beside the dream.
    real_frame: np.ndarray | None = None  # uint8 (H, W, C)
    real_ended: bool = False  # its episode has ended since the prompt, and a new one has begun
    psnr: float = 0.0  # dB, of the dream's last frames against the real ones


class RolloutPool:
    """All running rollouts of the game `name`, on top of `Sampler`. Not thread-safe."""

    def __init__(self, model: WorldModel, weights_hash: str, name: str = ""):
        self.name, self.caption = name, next((g.caption for g in model.game.games if g.name == name), "")
        self.model, self._weights_hash = select_game(model, name), weights_hash
        self.config, self.game, self.space = self.model.config, self.model.game, playable_actions(self.model)
        self._samplers: dict[ResolvedSettings, Sampler] = {}  # by `Rollout.sampler_key`
        self._rollouts: set[Rollout] = set()

    def start(self, prompt: Prompt, settings: ResolvedSettings) -> Rollout:
        """Start a rollout in the lowest free slot."""
        recent = deque(prompt.frames, maxlen=max(1, self.config.window_frames // 2))
        rollout = Rollout(prompt, settings, 0, self._weights_hash, recent=recent)
        sampler = self._samplers.get(rollout.sampler_key) or Sampler(self.model, rollout.sampler_key)
        rollout.slot = next(slot for slot in itertools.count() if slot not in sampler.slots)
        frames, actions = to_float(np.array(prompt.frames)), torch.from_numpy(self.space.vectors(prompt.actions))
        sampler.reset(frames[None], actions[None], slots=[rollout.slot], seeds=[settings.seed])
        self._samplers[rollout.sampler_key] = sampler
        self._rollouts.add(rollout)
        return rollout

    def step(self, jobs: Sequence[tuple[Rollout, int | np.ndarray]]) -> list[StepResult]:
        """The next frame of some rollouts, each under a recorded action: one result per job, in their order."""
        frames: dict[Rollout, np.ndarray] = {}
        for key, sampler in self._samplers.items():
            batch = [job for job in jobs if job[0].sampler_key == key]
            batch.sort(key=lambda job: job[0].slot)
            if batch:
                vectors = torch.from_numpy(self.space.vectors(np.array([action for _, action in batch])))
                generated = to_uint8(sampler.step(vectors, [rollout.slot for rollout, _ in batch]))
                frames |= {rollout: frame for (rollout, _), frame in zip(batch, generated, strict=True)}
        results = []
        for rollout, action in jobs:
            rollout.actions.append(action)
            rollout.recent.append(frames[rollout])
            results.append(StepResult(len(rollout.actions) - 1, action, frames[rollout]))
        return results

    def dream(
        self, prompt: Prompt, settings: ResolvedSettings, actions: Iterable[int | np.ndarray]
    ) -> Generator[StepResult, None, None]:
        """Generate one frame for each action, in a rollout of their own."""
        rollout = self.start(prompt, settings)
        try:
            for action in actions:
                yield from self.step([(rollout, action)])
        finally:
            self.end(rollout)

    def dream_prompt(self, settings: ResolvedSettings) -> Generator[Prompt, None, None]:
        """A prompt of one frame that is dreamt too: from noise, and from the words if the model has learnt any."""
        channels, height, width = self.config.frame_shape
        nothing = Prompt(np.zeros((0, height, width, channels), np.uint8), self.space.unknown(0))
        for step in self.dream(nothing, settings, self.space.unknown(1)):
            yield Prompt(step.frame[None], self.space.unknown(1))

    def complete(self, clip: MaskedClip, settings: ResolvedSettings) -> Generator[np.ndarray, None, None]:
        """Fill in a clip: uint8 (T, H, W, C) after each window, of which the last one is complete."""
        for clips in complete(self.model, [clip], self.space, settings):
            yield clips[0]

    def end(self, rollout: Rollout) -> None:
        """Free a rollout's slot, and its sampler if no other rollout uses it. A second call does nothing."""
        if rollout in self._rollouts:
            self._rollouts.remove(rollout)
            sampler = self._samplers[rollout.sampler_key]
            sampler.free([rollout.slot])
            if not sampler.slots:
                del self._samplers[rollout.sampler_key]

    def swap_weights(self, model: WorldModel, weights_hash: str) -> None:
        """Continue all rollouts with another model of the same frame size, actions and window."""
        model = select_game(model, self.name)
        if model.config.input_sizes != self.config.input_sizes:
            raise ValueError("its frame size, number of actions or window is different")
        for sampler in self._samplers.values():
            sampler.rebuild(model)
        for rollout in self._rollouts:
            rollout.weights_changed = True
        self.model, self._weights_hash = model, weights_hash

    def __len__(self) -> int:
        return len(self._rollouts)

    def bytes_per_rollout(self, num_steps: int = int(RANGES["num_steps"].high_in_play)) -> int:
        """Most memory that one rollout takes: its KV cache, its window of frames, and a sampler of its own.

        The cache counts twice, as it is copied when it grows.
        """
        config, weight = self.config, self.model.action_embedding.weight
        window_bytes = 4 * config.window_frames * int(np.prod(config.frame_shape))
        num_cached = 1 + config.num_actions + (0 if self.space.discrete else MAX_CACHED_ACTIONS)
        numbers = 2 * config.cache_numbers + (num_steps + 1) * num_cached * config.num_modulation_vectors * config.dim
        return window_bytes + numbers * weight.element_size()


def prompt_from_image(pixels: bytes, config: ModelConfig, space: ActionSpace) -> Prompt:
    """A prompt of one image, H * W * C bytes, row by row."""
    channels, height, width = config.frame_shape
    if len(pixels) != height * width * channels:
        raise ValueError(f"the image has {len(pixels)} bytes: expected {width}x{height} pixels of {channels} bytes")
    frames = np.frombuffer(pixels, np.uint8).reshape(1, height, width, channels)
    return Prompt(frames, space.unknown(1))
