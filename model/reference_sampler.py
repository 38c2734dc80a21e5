"""The sampler without a KV cache: the slow, plain reference that `Sampler` is compared with (`--no-cache`)."""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from dreamrun.model.diffusion import denoise
from dreamrun.model.game_views import without_text
from dreamrun.model.sampler import Sampler


class ReferenceSampler(Sampler):
    """Runs over the whole window at every denoising step.

    It gives the same frames as `Sampler` until the window is full. After that those of `Sampler` also depend, through
    cached keys, on frames outside the window: they equal those under a banded causal mask over the whole rollout.
    """

    def _fill_cache(self, slots: Sequence[int], replace_all: bool) -> None:
        """There is no cache."""

    def _generate(self, slots: list[int], actions: Tensor, x_u: Tensor, eps: Tensor) -> tuple:
        """Rollouts with equally many context frames share a batch."""
        states, frames = [self._states[slot] for slot in slots], torch.empty_like(x_u)
        actions, max_context = actions.to(x_u), self.config.window_frames - 1
        for length in {len(state.frames) for state in states}:
            rows = [row for row, state in enumerate(states) if len(state.frames) == length]
            context = torch.stack([_stack_context(states[row].frames, max_context, x_u[row]) for row in rows])
            past = torch.stack([_stack_context(states[row].actions, max_context, actions[row]) for row in rows])
            frames[rows] = self._denoise_window(context, past, x_u[rows], actions[rows])
        return frames, self._add_context_noise(frames, eps), None

    def _denoise_window(self, context: Tensor, past: Tensor, x_u: Tensor, actions: Tensor) -> Tensor:
        """A new frame after context frames (B, T, C, H, W) with past actions (B, T, A)."""

        def predict(x_u: Tensor, step: int, conditional: bool) -> Tensor:
            frames = torch.cat((context, x_u[:, None]), dim=1)
            levels = torch.full(frames.shape[:2], self.settings.context_noise, device=frames.device)
            levels[:, -1] = self._noise_levels[step]
            newest = actions if conditional else torch.zeros_like(actions)
            model = self.model if conditional else without_text(self.model, frames.shape[1])
            return model(frames, levels, torch.cat((past, newest[:, None]), dim=1))[:, -1]

        return denoise(x_u, predict, self._scales, self.config.prediction, self.settings.guidance)

    def _outcome_logits(self, slots: list[int], actions: Tensor) -> Tensor:
        return torch.cat([self._read_window(slot, action) for slot, action in zip(slots, actions, strict=True)])

    def _read_window(self, slot: int, action: Tensor) -> Tensor:
        """Outcome logits (1, K + 1) of an action (A,) at the newest frame."""
        state = self._states[slot]
        frames, actions = torch.stack([*state.frames])[None], torch.stack([*state.actions])[None]
        levels = torch.full(frames.shape[:2], self.settings.context_noise, device=frames.device)
        tokens = self.model(frames, levels, actions, with_tokens=True)[1]
        return self.model.outcome_logits(tokens[:, -1], action[None])


def _stack_context(tensors: deque[Tensor], max_context: int, like: Tensor) -> Tensor:
    """The last frames or actions, (T, ...), T at most `max_context`, maybe 0; `like` has the shape of one."""
    context = [*tensors][-max_context:] if max_context else []
    return torch.stack(context) if context else like.new_zeros(0, *like.shape)
