"""The sampler: the one rollout loop of the project. `reset(prompt)`, then `step(action) -> frame`, again and again.

Shapes: B rollouts in a batch, T frames, C channels, H x W pixels, A action vector, W frames in the window,
L noise levels, M modulation vectors, D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dreamrun.model.checkpoint import check_finite
from dreamrun.model.cuda_graph import CUDAGraphRunner
from dreamrun.model.diffusion import CONTEXT_NOISE, AlphaSigma, add_noise, alpha_sigma, ddim_step, x0_from_prediction
from dreamrun.model.dit import WorldModel
from dreamrun.model.kv_cache import CacheView, KVCache
from dreamrun.model.modulation_table import ModulationTable
from dreamrun.model.outcome_head import Outcome, check_outcome_head, to_outcome
from dreamrun.model.sampler_inputs import fit_prompt, validate_seed, validate_settings, validate_slots, validate_step
from dreamrun.model.text import without_text


@dataclass
class _SlotState:
    """State of one rollout outside the KV cache; enough to rebuild the cache."""

    generator: torch.Generator  # of all its noise, on the model's device
    frames: deque[Tensor]  # the last W - 1, (C, H, W), with context noise
    actions: deque[Tensor]  # (A,), the one that leads into each of these frames
    tokens: Tensor | None = None  # (P, D) of the newest frame, from the pass that filled the KV cache


class Sampler:
    """Generates one frame at a time by DDIM (arXiv 2010.02502), conditioned on the frames in the model's window.

    Each new frame gets context noise once, and later frames attend to this noisy version; the network is told its
    noise level. With the KV cache a frame takes `num_steps + 1` forward passes over one frame: the last pass writes its
    keys and values. Without the cache each step runs over the whole window. This reference gives the same frames until
    the window is full. After that the cached version also depends, through cached keys, on frames outside the window.
    It then equals a banded causal mask over the whole rollout.

    Each rollout has a slot with its own position and random stream. Slots are reset, stepped and freed independently.
    Rollouts that are stepped together share a batch.

    All rollouts have frames of one size, `config.frame_shape`: that of the prompt of the last `reset` of all slots.

    Args:
        model: in eval mode, on any device, in any float dtype.
        num_steps: denoising steps per frame, with noise levels evenly spaced from 1 to 0; None: the model's default.
        context_noise: noise level u in [0, 1) of the frames that new frames attend to.
        seed: slot i draws its noise from seed `seed + i`, unless `reset` gets seeds.
        cache: use the KV cache; False: the slow reference.
        guidance: scale of guidance against no action and no words, at twice the cost unless it is 1; None: the default.

    Raises:
        ValueError: a setting out of its range, or weights that are not finite.
    """

    def __init__(
        self,
        model: WorldModel,
        num_steps: int | None = None,
        context_noise: float = CONTEXT_NOISE,
        seed: int = 0,
        cache: bool = True,
        guidance: float | None = None,
    ):
        if not 0.0 <= context_noise < 1.0:
            raise ValueError(f"context_noise is {context_noise}: it must lie in [0, 1)")
        seed = validate_seed(seed)
        self.model, self.config = model, model.config
        self.num_steps = model.config.num_steps if num_steps is None else num_steps
        self.guidance = model.config.guidance if guidance is None else guidance
        self.context_noise, self.seed, self.use_cache = context_noise, seed, cache
        self._states: dict[int, _SlotState] = {}  # by slot
        self._cache: KVCache | None = None
        self._graph: CUDAGraphRunner | None = None
        self.rebuild(model, self.num_steps, self.guidance)

    @torch.inference_mode()
    def rebuild(
        self, model: WorldModel | None = None, num_steps: int | None = None, guidance: float | None = None
    ) -> None:
        """Change weights or settings and continue all rollouts, whose KV cache is rebuilt from their last windows.

        Args:
            model: a model of the same sizes, or the same model after its weights have changed; None: the same model.
            num_steps: None: unchanged.
            guidance: None: unchanged.

        Raises:
            ValueError: as in the constructor, or a model of other sizes; the sampler is then unchanged.
        """
        model = self.model if model is None else model
        num_steps = self.num_steps if num_steps is None else num_steps
        guidance = self.guidance if guidance is None else guidance
        validate_settings(num_steps, guidance)
        check_finite(model)
        if self._states and model.config.input_sizes != self.model.config.input_sizes:
            raise ValueError("the new model's frames, actions or window are of other sizes: start a new sampler")
        self.model, self.num_steps, self.guidance = model, num_steps, guidance
        self.config = model.config.resized(*self.config.frame_shape[1:]) if self._states else model.config
        self._levels = torch.linspace(1.0, 0.0, num_steps + 1)
        self._modulation_table = ModulationTable(model, [*self._levels[:-1].tolist(), self.context_noise])
        self._graph = None
        if self._cache is not None:
            self._rebuild_cache(self._cache.num_slots)

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
            seeds: of the rollouts' noise; None: `seed + slot`.

        Raises:
            ValueError: shapes that do not fit the model, frames that are no floats in [-1, 1], actions that are not
                finite, or slots or seeds that do not fit the prompt.
        """
        replace_all = slots is None
        *prompt, config = fit_prompt(frames, actions, self.model.config if replace_all else self.config, replace_all)
        frames, actions = (tensor.to(self.model.device, torch.float32) for tensor in prompt)
        slots = list(range(len(frames))) if slots is None else validate_slots(slots, len(frames))
        seeds = [validate_seed(seed) for seed in ([self.seed + slot for slot in slots] if seeds is None else seeds)]
        if len(seeds) != len(slots):
            raise ValueError(f"{len(seeds)} seeds for {len(slots)} rollouts")
        self.config = config
        if replace_all:
            self._states.clear()
        max_context = max(1, self.config.window_frames - 1)
        for slot, seed, slot_frames, slot_actions in zip(slots, seeds, frames, actions, strict=True):
            generator = torch.Generator(frames.device).manual_seed(seed)
            context = self._add_context_noise(slot_frames, _randn(slot_frames.shape, generator))
            self._states[slot] = _SlotState(
                generator, deque(context, maxlen=max_context), deque(slot_actions, maxlen=max_context)
            )
        if self.use_cache:
            num_slots = 1 + max(self._states)
            if self._cache is None or replace_all:
                self._rebuild_cache(num_slots)
            else:
                if self._cache.num_slots < num_slots:
                    self._graph = None  # it was captured with the smaller cache
                    self._cache.grow(num_slots)
                self._fill_cache(self._cache, slots)

    @torch.inference_mode()
    def step(self, actions: Tensor, slots: Sequence[int] | None = None) -> Tensor:
        """Generate the next frame of B rollouts.

        Args:
            actions: (B, A), each leads into the new frame; zeros where unknown.
            slots: of the rollouts; None: all, in the order of their slots.

        Returns:
            (B, C, H, W) float32 in [-1, 1].

        Raises:
            ValueError: a slot without a prompt, or actions of another shape or that are not finite.
        """
        slots = validate_step(actions, slots, self.slots, self.config)
        states = [self._states[slot] for slot in slots]
        noise_shape = (2, *self.config.frame_shape)
        x_u, eps = torch.stack([_randn(noise_shape, state.generator) for state in states]).unbind(1)
        actions = actions.float()
        tokens: Tensor | None = None
        if self._cache is not None:
            frames, context, tokens = self._step_cached(self._cache, slots, actions, x_u, eps)
        else:
            frames, context = self._step_uncached(states, actions, x_u, eps)
        for row, (state, action) in enumerate(zip(states, actions.to(frames), strict=True)):
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
        slots = validate_step(actions, slots, self.slots, self.config)
        check_outcome_head(self.config.outcomes, self.config.frame_shape)
        states, actions = [self._states[slot] for slot in slots], actions.to(self.model.device, torch.float32)
        if not all(state.frames for state in states):
            raise ValueError("a rollout has no frame yet: give it a prompt, or step it once")
        if self._cache is not None:
            tokens = torch.stack([state.tokens for state in states if state.tokens is not None])
            return to_outcome(self.model.outcome_logits(tokens, actions))
        return to_outcome(torch.cat([self._read_window(*pair) for pair in zip(states, actions, strict=True)]))

    def free(self, slots: Sequence[int]) -> None:
        """End the rollouts in these slots, which may be reset again. Empty slots are ignored."""
        for slot in slots:
            self._states.pop(slot, None)

    @property
    def slots(self) -> list[int]:
        """Slots in use, in order."""
        return sorted(self._states)

    @property
    def num_bytes(self) -> int:
        """Memory of the KV cache."""
        return self._cache.num_bytes if self._cache is not None else 0

    def _step_cached(
        self, cache: KVCache, slots: list[int], actions: Tensor, x_u: Tensor, eps: Tensor
    ) -> tuple[Tensor, ...]:
        """Generate frames, and write their keys and values to the cache.

        Pure noise x_u and context noise eps -> clean frames, and frames with context noise; all (B, C, H, W). And the
        tokens of the latter, (B, P, D).
        """
        view = cache.view(slots)
        cond = self._modulation_table.lookup(actions)
        uncond = cond if self.guidance == 1.0 else self._modulation_table.unconditional(len(actions))
        inputs = (x_u, eps, cond, uncond, view)
        if x_u.device.type == "cuda" and view.covers_all_slots:
            if self._graph is None:
                self._graph = CUDAGraphRunner(self._generate_cached, *inputs)
            outputs = self._graph(*inputs)
        else:
            outputs = self._generate_cached(*inputs)
        view.commit()
        return outputs

    def _generate_cached(
        self, x_u: Tensor, eps: Tensor, cond: Tensor, uncond: Tensor, view: CacheView
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All forward passes for one frame, with modulations `cond` and `uncond` (L, B, M, D)."""

        def predict(x_u: Tensor, step: int, conditional: bool) -> Tensor:
            modulations = (cond if conditional else uncond)[step]
            return self.model.forward_cached(x_u[:, None], modulations[:, None], view)[:, 0]

        frames = self._denoise(x_u, predict)
        context = self._add_context_noise(frames, eps)
        tokens = self.model.tokens_cached(context[:, None], cond[-1][:, None], view)
        return frames, context, tokens[:, 0]

    def _step_uncached(
        self, states: list[_SlotState], actions: Tensor, x_u: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `_step_cached`, but without a cache. Rollouts with equally many context frames share a batch."""
        frames = torch.empty_like(x_u)
        actions = actions.to(x_u)
        max_context = self.config.window_frames - 1
        for length in {len(state.frames) for state in states}:
            rows = [row for row, state in enumerate(states) if len(state.frames) == length]
            context = torch.stack([_stack_last(states[row].frames, max_context, x_u[row]) for row in rows])
            past = torch.stack([_stack_last(states[row].actions, max_context, actions[row]) for row in rows])
            frames[rows] = self._denoise(x_u[rows], self._window_predictor(context, past, actions[rows]))
        return frames, self._add_context_noise(frames, eps)

    def _window_predictor(self, context: Tensor, past: Tensor, actions: Tensor) -> Callable[..., Tensor]:
        """Prediction for a new frame after context frames (B, T, C, H, W) with past actions (B, T, A)."""

        def predict(x_u: Tensor, step: int, conditional: bool) -> Tensor:
            frames = torch.cat((context, x_u[:, None]), dim=1)
            levels = torch.full(frames.shape[:2], self.context_noise, device=frames.device)
            levels[:, -1] = self._levels[step]
            newest = actions if conditional else torch.zeros_like(actions)
            model = self.model if conditional else without_text(self.model, frames.shape[1])
            return model(frames, levels, torch.cat((past, newest[:, None]), dim=1))[:, -1]

        return predict

    def _read_window(self, state: _SlotState, action: Tensor) -> Tensor:
        """Without a cache: outcome logits (1, K + 1) of an action (A,) at the newest frame."""
        frames, actions = torch.stack([*state.frames])[None], torch.stack([*state.actions])[None]
        levels = torch.full(frames.shape[:2], self.context_noise, device=frames.device)
        next_actions = torch.cat((actions[:, 1:], action[None, None]), dim=1)
        tokens = self.model(frames, levels, actions, with_tokens=True)[1]
        return self.model.outcome_logits(tokens, next_actions)[:, -1]

    def _denoise(self, x_u: Tensor, predict: Callable[..., Tensor]) -> Tensor:
        """Pure noise (B, C, H, W) -> clean frames.

        `predict(x_u, step, conditional)` calls the network with the action, or with the zero action.
        """
        prediction = self.config.prediction
        for step, (u, u_next) in enumerate(pairwise(self._levels)):
            level = self._alpha_sigma(u)
            if self.guidance == 1.0:
                x0 = x0_from_prediction(predict(x_u, step, True), x_u, level, prediction)
            else:
                x0_uncond = x0_from_prediction(predict(x_u, step, False), x_u, level, prediction)
                x0_cond = x0_from_prediction(predict(x_u, step, True), x_u, level, prediction)
                x0 = x0_uncond.lerp(x0_cond, self.guidance)
            x_u = ddim_step(x_u, x0.clamp(-1.0, 1.0), level, self._alpha_sigma(u_next))
        return x_u  # the last step ends at u = 0, where x_u is x0

    def _add_context_noise(self, frames: Tensor, eps: Tensor) -> Tensor:
        """Noise clean frames to the context noise level."""
        return add_noise(frames, eps, self._alpha_sigma(torch.tensor(self.context_noise)))

    def _alpha_sigma(self, noise_level: Tensor) -> AlphaSigma:
        return alpha_sigma(noise_level, self.config.schedule)

    def _rebuild_cache(self, num_slots: int) -> None:
        weight = self.model.action_embedding.weight
        self._graph = None  # it was captured with the old cache
        self._cache = KVCache(self.config, num_slots, weight.device, weight.dtype)
        self._fill_cache(self._cache, self.slots)

    def _fill_cache(self, cache: KVCache, slots: list[int]) -> None:
        """Write the context of these slots to the cache: one forward pass for each context length."""
        cache.clear(slots)
        for length in {len(self._states[slot].frames) for slot in slots} - {0}:
            batch = [slot for slot in slots if len(self._states[slot].frames) == length]
            frames = torch.stack([torch.stack([*self._states[slot].frames]) for slot in batch])
            actions = torch.stack([torch.stack([*self._states[slot].actions]) for slot in batch])
            levels = torch.full(frames.shape[:2], self.context_noise, device=frames.device)
            view = cache.view(batch, length)
            tokens = self.model.tokens_cached(frames, self.model.modulations(levels, actions), view)
            view.commit()
            for slot, slot_tokens in zip(batch, tokens[:, -1], strict=True):
                self._states[slot].tokens = slot_tokens


def _stack_last(tensors: deque[Tensor], max_length: int, like: Tensor) -> Tensor:
    """Stack the last tensors of a queue: (T, ...), T at most `max_length`, maybe 0; `like` has the shape of one."""
    last = [*tensors][-max_length:] if max_length else []
    return torch.stack(last) if last else like.new_zeros(0, *like.shape)


def _randn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
