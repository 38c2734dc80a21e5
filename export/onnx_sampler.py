"""Rollouts of an exported network with onnxruntime: a `Sampler` with a graph in place of the network.

Shapes: B rollouts, C channels, H x W pixels, A action vector.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from dreamrun.export.onnx import MASKED, context_pass, denoising_passes, export_onnx
from dreamrun.export.onnx_graph import Weights
from dreamrun.model.checkpoint import check_finite
from dreamrun.model.dit import WorldModel
from dreamrun.model.options import SamplerSettings
from dreamrun.model.sampler import Sampler


@dataclass
class _Ring:
    """The KV cache of one rollout."""

    arrays: dict[str, np.ndarray]  # keys_l and values_l of each block l, (W, P, D)
    position: int = 0  # of the next frame
    length: int = 0  # frames that it attends to


class OnnxSampler(Sampler):
    """A sampler that runs an exported network, one rollout after another.

    Args:
        file: of `export_onnx`.
        model: the exported network; gives the config, and the modulation vectors if the graph has none.
        settings: without guidance and text, which the graph does not have.
    """

    def __init__(self, file: bytes, model: WorldModel, settings: SamplerSettings | None = None):
        settings = settings or SamplerSettings()
        if settings.guidance not in (None, 1):
            raise ValueError(f"guidance is {settings.guidance}: an exported network has none")
        if settings.text is not None:
            raise ValueError("an exported network cannot be told a text: export it with one (--prompt-text)")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # warnings are about constants that it folds
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._has_table = any(value.name == "modulations" for value in self._session.get_inputs())
        self._rings: dict[int, _Ring] = {}  # by slot
        super().__init__(model, replace(settings, guidance=1.0))
        denoising = denoising_passes(self.config, self.settings.num_steps)
        self._passes = [*denoising, context_pass(self.settings.context_noise)]

    def _fill_cache(self, slots: Sequence[int], replace_all: bool) -> None:
        if self.config != self.model.config:
            raise ValueError(f"prompt of {self.config.frame_shape}: exported for {self.model.config.frame_shape}")
        shape = (self.config.window_frames, self.config.num_patches, self.config.dim)
        names = [f"{name}_{block}" for block in range(self.config.num_blocks) for name in ("keys", "values")]
        for slot in slots:
            state = self._states[slot]
            self._rings[slot] = _Ring({name: np.zeros(shape, np.float32) for name in names})
            for context, action in zip(state.frames, state.actions, strict=True):
                self._append(self._rings[slot], context, action)

    def _generate(self, slots: list[int], actions: Tensor, x_u: Tensor, eps: Tensor) -> tuple:
        frames = torch.empty_like(x_u)
        for row, (slot, action) in enumerate(zip(slots, actions, strict=True)):
            frame = x_u[row].cpu().numpy()
            for number in range(self.settings.num_steps):
                frame, _, _ = self._run(self._rings[slot], frame, number, action)
            frames[row] = torch.from_numpy(frame)
        context = self._add_context_noise(frames, eps)
        for slot, frame, action in zip(slots, context, actions, strict=True):
            self._append(self._rings[slot], frame, action)
        return frames, context, None

    def _append(self, ring: _Ring, context: Tensor, action: Tensor) -> None:
        """Write the keys and values of a frame (C, H, W) with context noise into the ring."""
        index = ring.position % self.config.window_frames
        _, keys, values = self._run(ring, context.cpu().numpy(), self.settings.num_steps, action)
        for block in range(self.config.num_blocks):
            ring.arrays[f"keys_{block}"][index], ring.arrays[f"values_{block}"][index] = keys[block], values[block]
        ring.position += 1
        ring.length = min(ring.length + 1, self.config.window_frames - 1)

    def _run(self, ring: _Ring, frame: np.ndarray, number: int, action: Tensor) -> list[np.ndarray]:
        """A pass over a frame (C, H, W), by its number: the next frame, and keys and values."""
        frame_pass, window, rotary_dim = self._passes[number], self.config.window_frames, self.config.rotary_dim
        ages = (ring.position - np.arange(window)) % window
        attends = np.append((ages >= 1) & (ages <= ring.length), True)
        # float64: positions may be large
        angles = ring.position * 10000.0 ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
        if self._has_table:
            condition = {"modulations": self._modulation_table.lookup(action[None])[number, 0].cpu().numpy()}
        else:
            level = np.array([[frame_pass.noise_level]], np.float32)
            condition = {"noise_level": level, "action": action[None].float().cpu().numpy()}
        inputs = {
            "frame": frame[None],
            **condition,
            "coefficients": np.array(frame_pass.coefficients, np.float32),
            "cos_sin": np.stack((np.cos(angles), np.sin(angles))).astype(np.float32),
            "mask": np.where(attends, 0, MASKED).astype(np.float32),
            **ring.arrays,
        }
        next_frame, *keys_and_values = self._session.run(None, inputs)
        return [next_frame[0], *keys_and_values]


CHECKED_FRAMES = 3
MAX_RMS_ERROR = {"fp32": 1e-3, "fp16": 0.03, "int8": 0.4}  # of a pixel in [-1, 1]; a wrong graph is off by more


def export_checked(model: WorldModel, weights: Weights, with_table: bool = False) -> bytes:
    """`export_onnx`, compared with `Sampler` over some frames."""
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
