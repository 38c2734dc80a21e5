"""The sampler: `reset(prompt)`, then `step(action) -> frame`, again and again.

Shapes: B rollouts in a batch, T frames, C channels, H x W pixels, A action vector, W frames in the window,
L noise levels, M modulation vectors, P patches in a frame, D width.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from dreamrun.model.checkpoint import check_finite
from dreamrun.model.config import ModelConfig
from dreamrun.model.cuda_graph import CUDAGraph
from dreamrun.model.diffusion import add_noise, alpha_sigma, denoise, noise_levels
from dreamrun.model.dit import WorldModel
from dreamrun.model.game_views import with_text
from dreamrun.model.kv_cache import CacheView, KVCache
from dreamrun.model.modulation_table import ModulationTable
from dreamrun.model.options import ResolvedSettings, SamplerSettings
from dreamrun.model.outcome_head import Outcome, check_outcome_head, to_outcome

MAX_PIXEL = 1.01  # 1, and some room for resizing and bfloat16


@dataclass
class _SlotState:
    """State of one rollout outside the KV cache; enough to rebuild the cache."""

    generator: torch.Generator  # of all its noise, on the model's device
    frames: deque[Tensor]  # the last W - 1, (C, H, W), with context noise
    actions: deque[Tensor]  # (A,), the one that leads into each of these frames
    tokens: Tensor | None = None  # (P, D) of the newest frame, from the pass that filled the KV cache


def _warn_of_unit_range(frames: Tensor) -> None:
    if frames.numel() and frames.amin() >= 0 and frames.any():  # not the grey of tests of speed
        message = "all pixels of the prompt are in [0, 1]: frames are in [-1, 1]; scale yours with 2 * frames - 1"
        warnings.warn(message, stacklevel=4)  # the caller of `reset`, once for each line of code


class Sampler:
    """Generates one frame at a time by DDIM (arXiv 2010.02502), conditioned on the frames in the model's window.

    Each new frame gets context noise once, and later frames attend to this noisy version; the network is told its
    noise level. A frame takes `num_steps + 1` forward passes over one frame, twice as many steps with guidance: the
    last pass writes its keys and values to the KV cache. `ReferenceSampler` does without the cache.

    Each rollout has a slot with its own position and random stream. Slots are reset, stepped and freed independently.
    Rollouts that are stepped together share a batch. On a GPU all slots run in every step, as one captured graph, and
    those that are not stepped forget the result: so players come and go without another capture.

    All rollouts have frames of one size, `config.frame_shape`: that of the prompt of the last `reset` of all slots.

    Args:
        model: in eval mode, on any device, in any float dtype.
        settings: slot i draws its noise from `settings.seed + i`, unless `reset` gets seeds.

    Raises:
        ValueError: weights that are not finite, or a text for a model that has learnt no words.
    """

    graph_class: type[CUDAGraph] | None = None  # records and replays one frame; None: `CUDAGraph` on a GPU alone
    noise_device: str | None = None  # of the random streams, "cpu" for the same noise anywhere; None: the model's

    def __init__(self, model: WorldModel, settings: SamplerSettings | None = None):
        self.config = model.config
        self.settings = (settings or SamplerSettings()).resolve(model.config)
        self._given_model = self.model = model  # `model` is told `settings.text`
        self._states: dict[int, _SlotState] = {}  # by slot
        self._cache: KVCache | None = None
        self._graph: CUDAGraph | None = None
        self.rebuild(model)

    @torch.inference_mode()
    def rebuild(self, model: WorldModel | None = None, settings: SamplerSettings | None = None) -> None:
        """Change weights or settings and continue all rollouts, whose KV cache is rebuilt from their last windows.

        Args:
            model: a model of the same sizes, or the same model after its weights have changed; None: the same model.
            settings: None: unchanged.

        Raises:
            ValueError: as in the constructor, or a model of other sizes; the sampler is then unchanged.
        """
        model = self._given_model if model is None else model
        settings = (self.settings if settings is None else settings).resolve(model.config)
        check_finite(model)
        if self._states and model.config.input_sizes != self.model.config.input_sizes:
            raise ValueError("the new model's frames, actions or window are of other sizes: start a new sampler")
        if model is not self._given_model or settings != self.settings:
            self._cache, self._graph = None, None
        self._set_up(model, settings)
        if self._states:
            self._fill_cache(self.slots, replace_all=True)

    def _set_up(self, model: WorldModel, settings: ResolvedSettings) -> None:
        self.model = model if settings.text is None else with_text(model, settings.text)
        self._given_model, self.settings = model, settings
        self.config = model.config.resized(*self.config.frame_shape[1:]) if self._states else model.config
        # Constant from frame to frame, so they are computed once.
        self._noise_levels = noise_levels(settings.num_steps)
        self._scales = [alpha_sigma(u, self.config.schedule) for u in self._noise_levels]
        self._context_scale = alpha_sigma(torch.tensor(settings.context_noise), self.config.schedule)
        levels = [*self._noise_levels[:-1].tolist(), settings.context_noise]
        self._modulation_table = ModulationTable(self.model, levels)
        self._graph_class = self.graph_class or (CUDAGraph if model.device.type == "cuda" else None)

    @torch.inference_mode()
    def reset(
        self,
        frames: Tensor,
        actions: Tensor | None = None,
        slots: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Start B rollouts from a prompt.

        Args:
            frames: (B, T, C, H, W) in [-1, 1]; the last ones that fit the window are used. With T = 0 the first frame
                is generated from noise alone. H and W are those of `config`; without `slots` any that patches tile.
            actions: (B, T, A); `actions[:, t]` leads into frame t, zeros where unknown. None: all unknown.
            slots: where the rollouts go, replacing what was there; None: slots 0 to B - 1, and all others are freed.
            seeds: of the rollouts' noise; None: `settings.seed + slot`.

        Raises:
            ValueError: frames or actions of another shape, or frames that are no floats in [-1, 1].
        """
        replace_all, config = slots is None, self.config
        if replace_all and frames.ndim == 5:
            config = self.model.config.resized(*frames.shape[-2:])
        actions = check_prompt(frames, actions, config)
        _warn_of_unit_range(frames)
        max_context = max(1, config.window_frames - 1)
        if frames.shape[1] > max_context:
            message = f"prompt of {frames.shape[1]} frames: only its last {max_context} fit the window"
            warnings.warn(message, stacklevel=3)  # the caller of the decorated method
        frames, actions = (x[:, -max_context:].to(self.model.device, torch.float32) for x in (frames, actions))
        slots = list(range(len(frames))) if slots is None else [int(slot) for slot in slots]
        seeds = [self.settings.seed + slot for slot in slots] if seeds is None else [int(seed) for seed in seeds]
        assert len(set(slots)) == len(slots) == len(seeds) == len(frames), f"slots {slots}, {len(seeds)} seeds"
        self.config = config
        if replace_all:
            self._states.clear()
        self.start(frames, actions, slots, seeds, replace_all)

    @torch.inference_mode()
    def start(
        self, frames: Tensor, actions: Tensor, slots: Sequence[int], seeds: Sequence[int], replace_all: bool = False
    ) -> None:
        """`reset` for frames and actions that are known to be right and on the model's device, float32.

        It checks nothing, so it does not wait for the device.
        """
        max_context = max(1, self.config.window_frames - 1)
        for slot, seed, slot_frames, slot_actions in zip(slots, seeds, frames, actions, strict=True):
            generator = torch.Generator(self.noise_device or frames.device).manual_seed(seed)
            noise = _randn(slot_frames.shape, generator).to(frames.device)
            context = self._add_context_noise(slot_frames, noise)
            self._states[slot] = _SlotState(
                generator, deque(context, maxlen=max_context), deque(slot_actions, maxlen=max_context)
            )
        self._fill_cache(slots, replace_all)

    @torch.inference_mode()
    def step(self, actions: Tensor, slots: Sequence[int] | None = None) -> Tensor:
        """Generate the next frame of B rollouts.

        Args:
            actions: (B, A), each leads into the new frame; zeros where unknown. On the CPU, to spare a wait for a GPU.
            slots: of the rollouts; None: all, in the order of their slots.

        Returns:
            (B, C, H, W) float32 in [-1, 1].

        Raises:
            ValueError: a slot without a prompt, or actions of another shape.
        """
        slots = self._check_step(actions, slots)
        states = [self._states[slot] for slot in slots]
        noise_shape = (2, *self.config.frame_shape)
        noise = torch.stack([_randn(noise_shape, state.generator) for state in states])
        x_u, eps = noise.to(self.model.device).unbind(1)
        actions = actions.float()
        frames, context, tokens = self._generate(slots, actions, x_u, eps)
        actions = actions.to(frames.device, non_blocking=True)
        for row, (state, action) in enumerate(zip(states, actions, strict=True)):
            state.frames.append(context[row])
            state.actions.append(action)
            state.tokens = None if tokens is None else tokens[row]
        return frames

    @torch.inference_mode()
    def outcome(self, actions: Tensor, slots: Sequence[int] | None = None) -> Outcome:
        """Reward and end that follow from actions at the newest frames of B rollouts. Call it before `step`.

        It changes nothing, and costs next to nothing: it reads the tokens of the pass that filled the KV cache.

        Args:
            actions, slots: as for `step`.

        Raises:
            ValueError: as `step`; the model has no outcome head for frames of this size; or a rollout has no frame yet.
        """
        slots = self._check_step(actions, slots)
        check_outcome_head(self.config)
        if not all(self._states[slot].frames for slot in slots):
            raise ValueError("a rollout has no frame yet: give it a prompt, or step it once")
        return to_outcome(self._outcome_logits(slots, actions.to(self.model.device, torch.float32)))

    def free(self, slots: Sequence[int]) -> None:
        """End the rollouts in these slots, which may be reset again. Empty slots are ignored."""
        for slot in slots:
            self._states.pop(slot, None)

    @torch.inference_mode()
    def restart(self, num_slots: int, height: int, width: int) -> None:
        """End all rollouts, and make room at once for slots 0 to `num_slots` - 1 with frames of this size.

        The weights may have changed since the last call. They are not checked, so nothing waits for the device.
        """
        self._states.clear()
        self._set_up(self._given_model, self.settings)
        self.config = self.model.config.resized(height, width)
        if not self._fits(num_slots):
            self._make_cache(num_slots)

    @property
    def slots(self) -> list[int]:
        """Slots in use, in order."""
        return sorted(self._states)

    @property
    def num_bytes(self) -> int:
        """Memory of the KV cache."""
        return self._cache.num_bytes if self._cache is not None else 0

    def _check_step(self, actions: Tensor, slots: Sequence[int] | None) -> list[int]:
        slots = self.slots if slots is None else [int(slot) for slot in slots]
        missing = sorted(set(slots) - self._states.keys())
        if missing or not slots:
            what = f"slots {missing}" if missing else "the sampler"
            raise ValueError(f"step before reset: give {what} a prompt first")
        if actions.shape != (len(slots), self.config.num_actions):
            expected = (len(slots), self.config.num_actions)
            raise ValueError(f"actions of shape {tuple(actions.shape)}: expected {expected}")
        return slots

    def _generate(self, slots: list[int], actions: Tensor, x_u: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        """Generate frames, and write their keys and values to the cache.

        Pure noise x_u and context noise eps -> clean frames, and frames with context noise; all (B, C, H, W). And the
        tokens of the latter, (B, P, D).
        """
        assert self._cache is not None
        num_slots, is_captured = self._cache.num_slots, self._graph_class is not None
        some = is_captured and len(slots) < num_slots  # the graph runs all slots, and the others keep nothing of it
        if some:
            x_u, eps, actions = (_spread(x, slots, num_slots) for x in (x_u, eps, actions))
        view = self._cache.view(range(num_slots) if is_captured else slots)
        cond = self._modulation_table.lookup(actions)
        uncond = cond if self.settings.guidance == 1.0 else self._modulation_table.unconditional(len(actions))
        inputs = (x_u, eps, cond, uncond, view)
        if self._graph_class is None:
            outputs = self._run_passes(*inputs)
        else:
            self._graph = self._graph or self._graph_class(self._run_passes, *inputs)
            outputs = self._graph(*inputs)
        view.commit(slots)
        if not some:
            return outputs
        rows = torch.tensor(slots).to(x_u.device, non_blocking=True)
        return tuple(output[rows] for output in outputs)

    def _run_passes(
        self, x_u: Tensor, eps: Tensor, cond: Tensor, uncond: Tensor, view: CacheView
    ) -> tuple[Tensor, ...]:
        """All forward passes for one frame, with modulations `cond` and `uncond` (L, B, M, D)."""

        def predict(x_u: Tensor, step: int, conditional: bool) -> Tensor:
            modulations = (cond if conditional else uncond)[step]
            return self.model.forward_cached(x_u[:, None], modulations[:, None], view)[:, 0]

        frames = denoise(x_u, predict, self._scales, self.config.prediction, self.settings.guidance)
        context = self._add_context_noise(frames, eps)
        tokens = self.model.tokens_cached(context[:, None], cond[-1][:, None], view)
        return frames, context, tokens[:, 0]

    def _outcome_logits(self, slots: list[int], actions: Tensor) -> Tensor:
        """Logits (B, K + 1) of actions (B, A) at the newest frames."""
        tokens = [self._states[slot].tokens for slot in slots]
        return self.model.outcome_logits(torch.stack([each for each in tokens if each is not None]), actions)

    def _add_context_noise(self, frames: Tensor, eps: Tensor) -> Tensor:
        return add_noise(frames, eps, self._context_scale)

    def _fits(self, num_slots: int) -> bool:
        """Whether the cache serves for so many slots. A captured frame needs the cache that it was captured with."""
        if self._cache is None or self._cache.config != self.config:
            return False
        most = num_slots if self._graph_class is None else 2 * num_slots
        return num_slots <= self._cache.num_slots <= most

    def _make_cache(self, num_slots: int) -> None:
        weight = self.model.action_embedding.weight
        self._cache, self._graph = KVCache(self.config, num_slots, weight.device, weight.dtype), None

    def _fill_cache(self, slots: Sequence[int], replace_all: bool) -> None:
        """Write the context of these slots to the cache, or to a new one: one forward pass for each context length."""
        num_slots = 1 + max(self._states)
        if self._cache is None or (replace_all and not self._fits(num_slots)):
            self._make_cache(num_slots)
        elif self._cache.num_slots < num_slots:
            # A frame has to be captured again: twice the slots make this rare.
            self._cache.grow(num_slots if self._graph_class is None else max(num_slots, 2 * self._cache.num_slots))
            self._graph = None
        assert self._cache is not None
        self._cache.clear(range(self._cache.num_slots) if replace_all else slots)
        for length in {len(self._states[slot].frames) for slot in slots} - {0}:
            batch = [slot for slot in slots if len(self._states[slot].frames) == length]
            frames = torch.stack([torch.stack([*self._states[slot].frames]) for slot in batch])
            actions = torch.stack([torch.stack([*self._states[slot].actions]) for slot in batch])
            levels = torch.full(frames.shape[:2], self.settings.context_noise, device=frames.device)
            view = self._cache.view(batch, length)
            tokens = self.model.tokens_cached(frames, self.model.modulations(levels, actions), view)
            view.commit()
            for slot, slot_tokens in zip(batch, tokens[:, -1], strict=True):
                self._states[slot].tokens = slot_tokens


def rollout(
    sampler: Sampler, prompt: Tensor, actions: Tensor, progress: str = "", seeds: Sequence[int] | None = None
) -> Iterator[Tensor]:
    """Continue a prompt under given actions, and yield the new frames one by one, each (B, C, H, W) in [-1, 1].

    Args:
        sampler: also one of an exported network.
        prompt: (B, T, C, H, W) in [-1, 1].
        actions: (B, T + new frames, A); `actions[:, t]` leads into frame t, those of the prompt included.
        progress: title of a progress bar; "" shows none.
        seeds: one for the noise of each rollout; None: the sampler's own.
    """
    num_prompt = prompt.shape[1]
    sampler.reset(prompt, actions[:, :num_prompt], seeds=seeds)
    for action in tqdm(actions[:, num_prompt:].unbind(1), desc=progress, unit=" frames", disable=not progress):
        yield sampler.step(action)


def check_prompt(frames: Tensor, actions: Tensor | None, config: ModelConfig) -> Tensor:
    """Check the frames and actions of a prompt or a clip, and return the actions: zeros if they are None."""
    if frames.ndim != 5 or frames.shape[2:] != config.frame_shape or not frames.shape[0]:
        raise ValueError(
            f"prompt of shape {tuple(frames.shape)}: expected (rollouts, frames, *{config.frame_shape}), "
            "at least 1 rollout"
        )
    expected = (*frames.shape[:2], config.num_actions)
    actions = torch.zeros(expected) if actions is None else actions
    if actions.shape != expected:
        raise ValueError(f"prompt actions of shape {tuple(actions.shape)}: expected {expected}")
    if not frames.is_floating_point() or (frames.numel() and not frames.abs().amax() <= MAX_PIXEL):  # true for NaN
        raise ValueError("the prompt's pixels are no floats in [-1, 1]: make them of uint8 with data.batch.to_float")
    return actions


def _spread(x: Tensor, rows: Sequence[int], num_rows: int) -> Tensor:
    """x (B, ...) in these rows of (num_rows, ...), and zeros in the others."""
    index = torch.tensor(rows).to(x.device, non_blocking=True)
    return x.new_zeros(num_rows, *x.shape[1:]).index_copy(0, index, x)


def _randn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
