"""Rollouts of an exported network with onnxruntime: what `Sampler` does, with a graph in place of the network.

Shapes: B rollouts, T frames, C channels, H x W pixels, A action vector.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from dreamrun.export.onnx import MASKED, FramePass, context_pass, context_scales, denoising_passes, export_onnx
from dreamrun.export.onnx_graph import Weights
from dreamrun.model.checkpoint import check_finite
from dreamrun.model.dit import WorldModel
from dreamrun.model.modulation_table import ModulationTable
from dreamrun.model.options import SamplerSettings
from dreamrun.model.sampler import Sampler, check_prompt


@dataclass
class _Rollout:
    generator: torch.Generator
    ring: dict[str, np.ndarray]  # keys_l and values_l of each block l, (W, P, D)
    position: int = 0  # of the next frame
    length: int = 0  # frames that it attends to


class OnnxSampler:
    """`reset` and `step` of `Sampler`, one rollout after another. Equal seeds give equal noise in both.

    Args:
        file: of `export_onnx`.
        model: the exported network; gives the config, and the modulation vectors if the graph has none.
        settings: without guidance and text, which the graph does not have. Rollout i draws its noise from `seed + i`,
            unless `reset` gets seeds.
        num_threads: of onnxruntime.

    Raises:
        ValueError: guidance or a text.
    """

    def __init__(self, file: bytes, model: WorldModel, settings: SamplerSettings | None = None, num_threads: int = 1):
        self.config = model.config
        settings = settings or SamplerSettings()
        if settings.guidance not in (None, 1):
            raise ValueError(f"guidance is {settings.guidance}: an exported network has none")
        if settings.text is not None:
            raise ValueError("an exported network cannot be told a text: export it with one (--prompt-text)")
        self.settings = replace(settings, guidance=1.0).resolve(model.config)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # warnings are about constants that it folds
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._denoising = denoising_passes(self.config, self.settings.num_steps)
        self._context = context_pass(self.settings.context_noise)
        self._context_scales = context_scales(self.config, self.settings.context_noise)
        self._table: ModulationTable | None = None
        if any(value.name == "modulations" for value in self._session.get_inputs()):
            with torch.inference_mode():
                levels = [frame_pass.noise_level for frame_pass in (*self._denoising, self._context)]
                self._table = ModulationTable(model, levels)
        self._rollouts: list[_Rollout] = []

    def reset(self, frames: Tensor, actions: Tensor | None = None, seeds: Sequence[int] | None = None) -> None:
        """Start B rollouts from a prompt (B, T, C, H, W) in [-1, 1] with actions (B, T, A), as `Sampler.reset`.

        Raises:
            ValueError: a prompt that does not fit the model.
        """
        actions = check_prompt(frames, actions, self.config)
        max_context = max(1, self.config.window_frames - 1)
        seeds = [self.settings.seed + number for number in range(len(frames))] if seeds is None else seeds
        shape = (self.config.window_frames, self.config.num_patches, self.config.dim)
        names = [f"{name}_{block}" for block in range(self.config.num_blocks) for name in ("keys", "values")]
        self._rollouts = []
        for prompt, prompt_actions, seed in zip(
            frames[:, -max_context:], actions[:, -max_context:], seeds, strict=True
        ):
            generator = torch.Generator().manual_seed(seed)
            rollout = _Rollout(generator, {name: np.zeros(shape, np.float32) for name in names})
            noise = torch.randn(prompt.shape, generator=generator)
            for frame, eps, action in zip(prompt.float(), noise, prompt_actions, strict=True):
                self._append(rollout, frame.numpy(), eps.numpy(), action)
            self._rollouts.append(rollout)

    def step(self, actions: Tensor) -> Tensor:
        """The next frame of each rollout under actions (B, A): (B, C, H, W) float32 in [-1, 1].

        Raises:
            ValueError: actions of another shape.
        """
        if actions.shape != (len(self._rollouts), self.config.num_actions):
            expected = (len(self._rollouts), self.config.num_actions)
            raise ValueError(f"actions of shape {tuple(actions.shape)}: expected {expected}")
        frames = []
        for rollout, action in zip(self._rollouts, actions, strict=True):
            noise = torch.randn((2, *self.config.frame_shape), generator=rollout.generator)
            frame, eps = noise.numpy()
            for number, frame_pass in enumerate(self._denoising):
                frame, _, _ = self._run(rollout, frame, frame_pass, number, action)
            self._append(rollout, frame, eps, action)
            frames.append(torch.from_numpy(frame))
        return torch.stack(frames)

    def _append(self, rollout: _Rollout, frame: np.ndarray, eps: np.ndarray, action: Tensor) -> None:
        """Write the keys and values of a clean frame (C, H, W) with context noise into the ring."""
        scale, noise_scale = self._context_scales
        context = (scale * frame + noise_scale * eps).astype(np.float32)
        index = rollout.position % self.config.window_frames
        _, keys, values = self._run(rollout, context, self._context, len(self._denoising), action)
        for block in range(self.config.num_blocks):
            rollout.ring[f"keys_{block}"][index], rollout.ring[f"values_{block}"][index] = keys[block], values[block]
        rollout.position += 1
        rollout.length = min(rollout.length + 1, self.config.window_frames - 1)

    def _run(
        self, rollout: _Rollout, frame: np.ndarray, frame_pass: FramePass, number: int, action: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One pass over a frame (C, H, W); `number` is its row in the modulation table."""
        window, rotary_dim = self.config.window_frames, self.config.rotary_dim
        ages = (rollout.position - np.arange(window)) % window
        attends = np.append((ages >= 1) & (ages <= rollout.length), True)
        angles = rollout.position * 10000.0 ** (
            -np.arange(0, rotary_dim, 2) / rotary_dim
        )  # float64: positions may be large
        if self._table is not None:
            condition = {"modulations": self._table.lookup(action[None])[number, 0].numpy()}
        else:
            condition = {
                "noise_level": np.array([[frame_pass.noise_level]], np.float32),
                "action": action[None].float().numpy(),
            }
        inputs = {
            "frame": frame[None],
            **condition,
            "coefficients": np.array(frame_pass.coefficients, np.float32),
            "cos_sin": np.stack((np.cos(angles), np.sin(angles))).astype(np.float32),
            "mask": np.where(attends, 0, MASKED).astype(np.float32),
            **rollout.ring,
        }
        next_frame, keys, values = self._session.run(None, inputs)
        return next_frame[0], keys, values


CHECKED_FRAMES = 3
MAX_RMS_ERROR = {"fp32": 1e-3, "fp16": 0.03, "int8": 0.4}  # of a pixel in [-1, 1]; a wrong graph is off by more


def export_checked(model: WorldModel, weights: Weights, with_table: bool = False) -> bytes:
    """`export_onnx`, compared with `Sampler` over some frames.

    Raises:
        ValueError: the weights are not finite, or the graph generates other frames.
    """
    check_finite(model)
    model = copy.deepcopy(model).float()
    file = export_onnx(model, weights, with_table)
    generator = torch.Generator().manual_seed(0)
    config = model.config
    coarse = torch.rand(CHECKED_FRAMES, config.num_channels, *config.grid, generator=generator) * 2 - 1
    prompt = coarse.repeat_interleave(config.patch_size, -1).repeat_interleave(config.patch_size, -2)[None]
    prompt = prompt[:, : max(1, config.window_frames - 1)]
    actions = torch.eye(config.num_actions)[torch.arange(2 * CHECKED_FRAMES) % config.num_actions][None]
    settings = SamplerSettings(num_steps=2, guidance=1.0)
    samplers = (Sampler(model, settings), OnnxSampler(file, model, settings))
    for sampler in samplers:
        sampler.reset(prompt, actions[:, : prompt.shape[1]])
    for t in range(CHECKED_FRAMES):
        expected, found = (sampler.step(actions[:, CHECKED_FRAMES + t]) for sampler in samplers)
        error = float((expected - found).square().mean().sqrt())
        if not error <= MAX_RMS_ERROR[weights]:
            raise ValueError(f"the exported network ({weights}) differs from the original by {error:.2g} in frame {t}")
    return file
