"""The only rollout loop there is: `reset(prompt)`, then `step(action) -> frame`, again and again.

Shapes: B dreams that run side by side, T frames, C channels, H x W pixels, A action vector.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import torch
from torch import Tensor

from model.diffusion import add_noise, alpha_bar, ddim_step, frame_alpha_bar, x0_from_prediction
from model.dit import WorldModel


class Sampler:
    """Dreams frame after frame by DDIM (arXiv 2010.02502), each from the model's window of frames before it.

    This is the plain reference: every denoising step runs the network over the whole window.
    Context frames are noised, once each, to the level that the network is told.

    Args:
        model: in eval mode, on any device, in any float type.
        num_steps: denoising steps a frame; noise levels are evenly spaced from 1 to 0.
        context_noise: noise level u in [0, 1) of the frames that are looked back at.
        seed: dream i draws all its noise from `seed + i`, on the CPU, so that devices agree.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(self, model: WorldModel, num_steps: int = 10, context_noise: float = 0.02, seed: int = 0):
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}: at least 1 denoising step is needed")
        if not 0.0 <= context_noise < 1.0:
            raise ValueError(f"context_noise is {context_noise}: it must lie in [0, 1)")
        self.model = model
        self.num_steps = num_steps
        self.context_noise = context_noise
        self.seed = seed
        self._generators: list[torch.Generator] = []
        self._frames: Tensor | None = None  # (B, T, C, H, W), as noised for looking back at
        self._actions: Tensor | None = None  # (B, T, A), each leading into the frame beside it

    @torch.inference_mode()
    def reset(self, frames: Tensor, actions: Tensor | None = None) -> None:
        """Start B dreams from a prompt.

        Args:
            frames: (B, T, C, H, W) in [-1, 1], at least one frame; only as many as fit the window are kept.
            actions: (B, T, A); `actions[:, t]` led into frame t, zeros where unknown. None: none is known.

        Raises:
            ValueError: shapes that do not fit the model.
        """
        config = self.model.config
        if frames.ndim != 5 or frames.shape[2:] != config.frame_shape or not frames.shape[0] or not frames.shape[1]:
            raise ValueError(
                f"prompt of shape {tuple(frames.shape)}: expected (dreams, frames, *{config.frame_shape}), none empty"
            )
        if actions is None:
            actions = torch.zeros(*frames.shape[:2], config.num_actions)
        if actions.shape != (*frames.shape[:2], config.num_actions):
            expected = (*frames.shape[:2], config.num_actions)
            raise ValueError(f"prompt actions of shape {tuple(actions.shape)}: expected {expected}")
        room = max(1, config.window_frames - 1)
        if frames.shape[1] > room:
            warnings.warn(f"prompt of {frames.shape[1]} frames: only its last {room} fit the window", stacklevel=2)
            frames, actions = frames[:, -room:], actions[:, -room:]
        self._generators = [torch.Generator().manual_seed(self.seed + dream) for dream in range(frames.shape[0])]
        device = self.model.device
        self._actions = actions.to(device, torch.float32)
        noised = [self._noised_context(frame) for frame in frames.to(device, torch.float32).unbind(1)]
        self._frames = torch.stack(noised, dim=1)

    @torch.inference_mode()
    def step(self, actions: Tensor) -> Tensor:
        """Dream one frame further.

        Args:
            actions: (B, A), each leading into the new frame; zeros where none is known.

        Returns:
            (B, C, H, W) float32 in [-1, 1].

        Raises:
            ValueError: no `reset` before, or actions of another shape.
        """
        if self._frames is None:
            raise ValueError("step before reset: give the sampler a prompt first")
        expected = (self._frames.shape[0], self.model.config.num_actions)
        if actions.shape != expected:
            raise ValueError(f"actions of shape {tuple(actions.shape)}: expected {expected}")
        actions = torch.cat((self._actions, actions.to(self._actions)[:, None]), dim=1)
        x_u = self._noise()
        levels = torch.linspace(1.0, 0.0, self.num_steps + 1)
        for u, u_next in pairwise(levels):
            x0 = self._predict_x0(x_u, u, actions).clamp(-1.0, 1.0)
            x_u = ddim_step(x_u, x0, alpha_bar(u), alpha_bar(u_next))
        # The last step lands on u = 0, where x_u is x0.
        room = self.model.config.window_frames - 1
        frames = torch.cat((self._frames, self._noised_context(x_u)[:, None]), dim=1)
        self._frames, self._actions = (t[:, max(0, t.shape[1] - room) :] for t in (frames, actions))
        return x_u

    def _predict_x0(self, x_u: Tensor, noise_level: Tensor, actions: Tensor) -> Tensor:
        """The new frame (B, C, H, W) at one noise level, seen after its context -> its x0."""
        frames = torch.cat((self._frames, x_u[:, None]), dim=1)
        levels = torch.full(frames.shape[:2], self.context_noise, device=frames.device)
        levels[:, -1] = noise_level
        prediction = self.model(frames, levels, actions)[:, -1]
        return x0_from_prediction(prediction, x_u, alpha_bar(noise_level).to(x_u), self.model.config.prediction)

    def _noised_context(self, frame: Tensor) -> Tensor:
        """(B, C, H, W) clean -> noised to the context level."""
        ab = frame_alpha_bar(torch.tensor(self.context_noise))
        return add_noise(frame, self._noise(), ab.to(frame))

    def _noise(self) -> Tensor:
        """(B, C, H, W) standard normal, each dream's from its own stream."""
        shape = self.model.config.frame_shape
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in self._generators])
        return noise.to(self.model.device)
