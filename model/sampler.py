"""The only rollout loop there is: `reset(prompt)`, then `step(action) -> frame`, again and again.

Shapes: B dreams that tick together, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from model.checkpoint import check_finite
from model.cuda_graph import CUDAGraphRunner
from model.diffusion import add_noise, alpha_bar, ddim_step, x0_from_prediction
from model.dit import WorldModel
from model.kv_cache import CacheView, KVCache
from model.modulation_table import ModulationTable


@dataclass
class _Rollout:
    """What is kept of one dream besides the cache: enough to make the cache anew."""

    generator: torch.Generator  # of all of its noise, on the model's device
    frames: deque[Tensor]  # the last W - 1, (C, H, W), as noised for looking back at
    actions: deque[Tensor]  # (A,), each leading into the frame beside it


class Sampler:
    """Dreams frame after frame by DDIM (arXiv 2010.02502), each from the model's window of frames before it.

    A finished frame is noised once to the context level and kept so; the network is told that level. With the cache
    its keys and values are written once, so that a frame costs `num_steps + 1` runs over one frame. Without it each
    step runs over the whole window: the reference, equal to the cache until the window is full. Past that, the cache
    equals a banded causal mask over the whole dream, as its older keys still know of frames that have left.

    Dreams live in slots, each with a position and a random stream of its own, reset, stepped and freed independently;
    those stepped together share one batch.

    Args:
        model: in eval mode, on any device, in any float type.
        num_steps: denoising steps a frame, noise levels evenly spaced from 1 to 0; None: `model.config.num_steps`.
        context_noise: noise level u in [0, 1) of the frames that are looked back at.
        seed: slot i draws its noise from `seed + i`, unless `reset` says otherwise.
        cache: False for the reference.
        guidance: above 1, away from what the network makes of the zero action; doubles the cost unless it is 1.

    Raises:
        ValueError: a setting out of its range, or weights that are not finite.
    """

    def __init__(
        self,
        model: WorldModel,
        num_steps: int | None = None,
        context_noise: float = 0.02,
        seed: int = 0,
        cache: bool = True,
        guidance: float = 1.0,
    ):
        if not 0.0 <= context_noise < 1.0:
            raise ValueError(f"context_noise is {context_noise}: it must lie in [0, 1)")
        self.context_noise, self.seed, self.use_cache = context_noise, seed, cache
        self._dreams: dict[int, _Rollout] = {}
        self._cache: KVCache | None = None
        self._graph: CUDAGraphRunner | None = None
        self.rebuild(model, model.config.num_steps if num_steps is None else num_steps, guidance)

    @torch.inference_mode()
    def rebuild(
        self, model: WorldModel | None = None, num_steps: int | None = None, guidance: float | None = None
    ) -> None:
        """Take over new weights or settings and go on dreaming: caches are made anew from each dream's last window.

        Args:
            model: of the same sizes, or the same one after its weights have changed; None: that which there is.
            num_steps, guidance: None: as before.

        Raises:
            ValueError: as at the start; nothing has changed then.
        """
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}: at least 1 denoising step is needed")
        if guidance is not None and guidance < 0:
            raise ValueError(f"guidance is {guidance}: it cannot be negative")
        model = model or self.model
        check_finite(model)
        config = model.config
        sizes = (config.frame_shape, config.num_actions, config.window_frames)
        if self._dreams and sizes != self._sizes:
            raise ValueError("the new model's frames, actions or window are of other sizes: start a new sampler")
        self.model = model
        self.num_steps = self.num_steps if num_steps is None else num_steps
        self.guidance = self.guidance if guidance is None else guidance
        self._sizes = sizes
        self._levels = torch.linspace(1.0, 0.0, self.num_steps + 1)
        self._table = ModulationTable(model, [*self._levels[:-1].tolist(), self.context_noise])
        self._graph = None
        if self._cache:
            self._make_cache(self._cache.num_slots)

    @torch.inference_mode()
    def reset(
        self,
        frames: Tensor,
        actions: Tensor | None = None,
        slots: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """Start B dreams from a prompt.

        Args:
            frames: (B, T, C, H, W) in [-1, 1]; only as many as fit the window are kept. Without any (T = 0) the first
                frame is dreamt from noise alone, too.
            actions: (B, T, A); `actions[:, t]` led into frame t, zeros where unknown. None: none is known.
            slots: where they live, what lived there before being forgotten; None: in 0 to B - 1, and nowhere else.
            seeds: of their noise; None: `seed + slot`.

        Raises:
            ValueError: shapes that do not fit the model.
        """
        frames, actions = self._checked_prompt(frames, actions)
        everything = slots is None
        slots = list(range(len(frames))) if everything else _checked_slots(slots, len(frames))
        seeds = [self.seed + slot for slot in slots] if seeds is None else list(seeds)
        if len(seeds) != len(slots):
            raise ValueError(f"{len(seeds)} seeds for {len(slots)} dreams")
        if everything:
            self._dreams.clear()
        kept = max(1, self.model.config.window_frames - 1)
        for slot, seed, its_frames, its_actions in zip(slots, seeds, frames, actions, strict=True):
            generator = torch.Generator(frames.device).manual_seed(seed)
            context = self._as_context(its_frames, _noise(its_frames.shape, generator))
            self._dreams[slot] = _Rollout(generator, deque(context, maxlen=kept), deque(its_actions, maxlen=kept))
        if self.use_cache:
            num_slots = 1 + max(self._dreams)
            if self._cache is None or everything:
                self._make_cache(num_slots)
            else:
                if self._cache.num_slots < num_slots:
                    self._graph = None  # it was captured over the smaller cache
                    self._cache.grow(num_slots)
                self._fill_cache(slots)

    @torch.inference_mode()
    def step(self, actions: Tensor, slots: Sequence[int] | None = None) -> Tensor:
        """Dream one frame further.

        Args:
            actions: (B, A), each leading into the new frame; zeros where none is known.
            slots: the dreams that tick; None: all, in the order of their slots.

        Returns:
            (B, C, H, W) float32 in [-1, 1].

        Raises:
            ValueError: no `reset` before, or actions of another shape.
        """
        slots = self.slots if slots is None else _checked_slots(slots, len(actions))
        if not slots or not self._dreams.keys() >= set(slots):
            missing = sorted(set(slots) - self._dreams.keys())
            raise ValueError(
                f"step before reset: give {f'slots {missing}' if missing else 'the sampler'} a prompt first"
            )
        expected = (len(slots), self.model.config.num_actions)
        if actions.shape != expected:
            raise ValueError(f"actions of shape {tuple(actions.shape)}: expected {expected}")
        dreams = [self._dreams[slot] for slot in slots]
        shape = (2, *self.model.config.frame_shape)
        x_u, eps = torch.stack([_noise(shape, dream.generator) for dream in dreams]).unbind(1)
        actions = actions.float()
        if self.use_cache:
            frames, context = self._step_cached(slots, actions, x_u, eps)
        else:
            frames, context = self._step_reference(dreams, actions, x_u, eps)
        for dream, frame, action in zip(dreams, context, actions.to(frames), strict=True):
            dream.frames.append(frame)
            dream.actions.append(action)
        return frames

    def free(self, slots: Sequence[int]) -> None:
        """Forget dreams; their slots may be reset again. Unknown ones are ignored."""
        for slot in slots:
            self._dreams.pop(slot, None)

    @property
    def slots(self) -> list[int]:
        """Where dreams live, in order."""
        return sorted(self._dreams)

    @property
    def num_bytes(self) -> int:
        """Memory that the cache takes, and each slot its share of."""
        return self._cache.num_bytes if self._cache else 0

    def _step_cached(self, slots: list[int], actions: Tensor, x_u: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) start noise and context noise -> the new frames, clean and as context; the cache holds them."""
        view = self._cache.begin(slots)
        given = self._table.lookup(actions)
        unknown = given if self.guidance == 1.0 else self._table.lookup(torch.zeros_like(actions))
        if x_u.device.type == "cuda" and view.whole:
            # One frame is hundreds of small kernels: captured once, they are launched as one.
            if self._graph is None:
                self._graph = CUDAGraphRunner(self._run_cached, x_u, eps, given, unknown, view)
            frames, context = self._graph(x_u, eps, given, unknown, view)
        else:
            frames, context = self._run_cached(x_u, eps, given, unknown, view)
        view.keep()
        return frames, context

    def _run_cached(self, x_u: Tensor, eps: Tensor, given: Tensor, unknown: Tensor, view: CacheView) -> tuple:
        """All runs of the network for one frame; modulations `given` and `unknown` (L, B, M, D)."""

        def predict(x_u: Tensor, step: int, known: bool) -> Tensor:
            vectors = (given if known else unknown)[step]
            return self.model.forward_cached(x_u[:, None], vectors[:, None], view)[:, 0]

        frames = self._denoise(x_u, predict)
        context = self._as_context(frames, eps)
        self.model.forward_cached(context[:, None], given[-1][:, None], view)
        return frames, context

    def _step_reference(
        self, dreams: list[_Rollout], actions: Tensor, x_u: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same without a cache: dreams whose windows are equally full share a batch."""
        frames = torch.empty_like(x_u)
        actions = actions.to(x_u)
        for length in {len(dream.frames) for dream in dreams}:
            rows = [row for row, dream in enumerate(dreams) if len(dream.frames) == length]
            room = self.model.config.window_frames - 1
            context = torch.stack([_stacked([*dreams[row].frames][-room:] if room else [], x_u[row]) for row in rows])
            past = torch.stack([_stacked([*dreams[row].actions][-room:] if room else [], actions[row]) for row in rows])
            frames[rows] = self._denoise(x_u[rows], self._window_predictor(context, past, actions[rows]))
        return frames, self._as_context(frames, eps)

    def _window_predictor(self, context: Tensor, past: Tensor, actions: Tensor) -> Callable[..., Tensor]:
        """Runs the network over context (B, T, C, H, W), past actions (B, T, A), and a new frame."""

        def predict(x_u: Tensor, step: int, known: bool) -> Tensor:
            frames = torch.cat((context, x_u[:, None]), dim=1)
            levels = torch.full(frames.shape[:2], self.context_noise, device=frames.device)
            levels[:, -1] = self._levels[step]
            newest = actions if known else torch.zeros_like(actions)
            return self.model(frames, levels, torch.cat((past, newest[:, None]), dim=1))[:, -1]

        return predict

    def _denoise(self, x_u: Tensor, predict: Callable[..., Tensor]) -> Tensor:
        """Noise (B, C, H, W) -> clean frames. `predict(x_u, step, known)` runs the network, the action known or not."""
        kind = self.model.config.prediction
        for step, (u, u_next) in enumerate(pairwise(self._levels)):
            ab = alpha_bar(u)
            if self.guidance == 1.0:
                x0 = x0_from_prediction(predict(x_u, step, True), x_u, ab, kind)
            else:  # the known action last, so that its keys and values are those that stand in the cache
                without = x0_from_prediction(predict(x_u, step, False), x_u, ab, kind)
                x0 = without.lerp(x0_from_prediction(predict(x_u, step, True), x_u, ab, kind), self.guidance)
            x_u = ddim_step(x_u, x0.clamp(-1.0, 1.0), ab, alpha_bar(u_next))
        return x_u  # the last step lands on u = 0, where x_u is x0

    def _as_context(self, frames: Tensor, eps: Tensor) -> Tensor:
        """Clean frames -> noised to the context level."""
        return add_noise(frames, eps, alpha_bar(torch.tensor(self.context_noise)))

    def _make_cache(self, num_slots: int) -> None:
        weight = self.model.action_embedding.weight
        self._graph = None  # it was captured over the old cache
        self._cache = KVCache(self.model.config, num_slots, weight.device, weight.dtype)
        self._fill_cache(self.slots)

    def _fill_cache(self, slots: list[int]) -> None:
        """Run over these dreams' windows in one pass (one for each length of window that there is)."""
        self._cache.clear(slots)
        for length in {len(self._dreams[slot].frames) for slot in slots} - {0}:
            alike = [slot for slot in slots if len(self._dreams[slot].frames) == length]
            frames = torch.stack([torch.stack([*self._dreams[slot].frames]) for slot in alike])
            actions = torch.stack([torch.stack([*self._dreams[slot].actions]) for slot in alike])
            levels = torch.full(frames.shape[:2], self.context_noise, device=frames.device)
            view = self._cache.begin(alike, length)
            self.model.forward_cached(frames, self.model.modulations(levels, actions), view)
            view.keep()

    def _checked_prompt(self, frames: Tensor, actions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both on the device, of the right shapes, no longer than the window has room for."""
        config = self.model.config
        if frames.ndim != 5 or frames.shape[2:] != config.frame_shape or not frames.shape[0]:
            raise ValueError(
                f"prompt of shape {tuple(frames.shape)}: expected (dreams, frames, *{config.frame_shape}), dreams not 0"
            )
        expected = (*frames.shape[:2], config.num_actions)
        if actions is None:
            actions = torch.zeros(expected)
        if actions.shape != expected:
            raise ValueError(f"prompt actions of shape {tuple(actions.shape)}: expected {expected}")
        room = max(1, config.window_frames - 1)
        if frames.shape[1] > room:
            warnings.warn(f"prompt of {frames.shape[1]} frames: only its last {room} fit the window", stacklevel=3)
            frames, actions = frames[:, -room:], actions[:, -room:]
        device = self.model.device
        return frames.to(device, torch.float32), actions.to(device, torch.float32)


def _stacked(tensors: list[Tensor], like: Tensor) -> Tensor:
    """(T, ...), also of none, which are shaped like another."""
    return torch.stack(tensors) if tensors else like.new_zeros(0, *like.shape)


def _noise(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


def _checked_slots(slots: Sequence[int], expected: int) -> list[int]:
    slots = list(slots)
    if len(slots) != expected or len(set(slots)) != expected or min(slots, default=0) < 0:
        raise ValueError(f"slots {slots}: expected {expected} different ones, counted from 0")
    return slots
