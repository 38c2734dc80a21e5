"""Export a network to ONNX: one forward pass over one frame, with the KV cache's ring as inputs and outputs.

`_interface` lists the inputs and outputs of the graph, all float32. Shapes: P patches in a frame, N heads, K head dim,
D = N K width, W frames in the window, C channels, H x W_px pixels, M modulation vectors.

A frame takes `denoising_passes`, each on the output of the one before, and then `context_pass` on the finished frame
with context noise. The new keys and values of this last pass belong at index p mod W. `OnnxSampler` does all this.

The graph is written node by node. torch's exporter takes a hundred times as long and writes a graph of twice the nodes,
with this machine's paths in it. Tests compare the graph with `Sampler`.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from onnx import helper
from torch import nn

from dreamrun.export.onnx_graph import GraphBuilder, Weights, array
from dreamrun.model.attention import Attention, FullAttention
from dreamrun.model.config import ModelConfig
from dreamrun.model.diffusion import alpha_sigma, noise_levels
from dreamrun.model.dit import AdaLNModulation, DiTBlock, NoiseLevelEmbedding, WorldModel
from dreamrun.model.rotary import spatial_cos_sin

_VECTORS_PER_SPLIT = 6  # a GPU's program may have few outputs
MASKED = -1e9  # added to the attention scores of frames that are not attended to


@dataclass(frozen=True)
class FramePass:
    """One pass: `x0 = clip(a output + b x_u, -1, 1)`, then `x_next = c x0 + d x_u`."""

    noise_level: float
    coefficients: tuple[float, float, float, float]  # a, b, c, d


def denoising_passes(config: ModelConfig, num_steps: int) -> list[FramePass]:
    """The passes that turn noise into a frame, as in `Sampler`: DDIM (arXiv 2010.02502, eq. 12) at even noise levels.

    `a` and `b` give x0 from what the network predicts, `c` and `d` the step from one alpha and sigma to the next.
    """
    passes = []
    for u, u_next in pairwise(noise_levels(num_steps).tolist()):
        (alpha, sigma), (alpha_next, sigma_next) = frame_scales(config, u), frame_scales(config, u_next)
        a, b = {"x0": (1.0, 0.0), "v": (-sigma, alpha), "velocity": (-sigma, 1.0)}[config.prediction]
        d = sigma_next / sigma
        passes.append(FramePass(u, (a, b, alpha_next - d * alpha, d)))
    return passes


def context_pass(context_noise: float) -> FramePass:
    """The pass over a finished frame with context noise. Only its keys and values are used."""
    return FramePass(context_noise, (1.0, 0.0, 1.0, 0.0))


def frame_scales(config: ModelConfig, noise_level: float) -> tuple[float, float]:
    """Alpha and sigma of a frame at a noise level, `alpha frame + sigma eps`."""
    alpha, sigma = alpha_sigma(torch.tensor(noise_level), config.schedule)
    return float(alpha), float(sigma)


def export_onnx(model: WorldModel, weights: Weights = "fp32", with_table: bool = False) -> bytes:
    """The ONNX file of a network on the CPU, with its config and game as metadata. Equal networks give equal bytes.

    With `with_table` the modulation vectors are an input, so the file is a third smaller.
    """
    config = model.config
    graph = GraphBuilder(weights)
    num_vectors = config.num_modulation_vectors
    modulations = "modulations" if with_table else _modulations(graph, model)
    vectors = _vectors(graph, modulations, num_vectors, config.dim)
    attentions = _AttentionNodes(graph, config)
    x = _patchify(graph, model)
    for block in model.blocks:
        for name, part in block.named_children():
            x = _dit_block(graph, x, part, vectors, getattr(attentions, name))
    x = _modulate(graph, x, next(vectors), next(vectors))
    _ddim_step(graph, _unpatchify(graph, graph.linear(x, model.final_layer.linear, exact=True), config))
    attentions.write_outputs()
    inputs, outputs = _interface(config, num_vectors, with_table)
    proto = graph.model("frame_pass", inputs, outputs)
    metadata = {"config": config.to_dict(), "game": model.game.to_dict()}
    helper.set_model_props(proto, {name: json.dumps(values) for name, values in metadata.items()})
    return proto.SerializeToString(deterministic=True)


def _interface(config: ModelConfig, num_vectors: int, with_table: bool) -> tuple[dict, dict]:
    """Inputs and outputs: name -> (shape, description)."""
    frame, key = (1, *config.frame_shape), (config.num_patches, config.dim)
    ring = ((config.window_frames, *key), "of the last frames: frame p is at index p mod window_frames")
    condition = {
        "noise_level": ((1, 1), "u in [0, 1]"),
        "action": ((1, config.num_actions), "leads into the frame; zeros: unknown"),
    }
    if with_table:
        condition = {"modulations": ((num_vectors, config.dim), "of the pass's noise level and action")}
    ddim = "a, b, c, d: x0 = clip(a output + b frame, -1, 1); next_frame = c x0 + d frame"
    inputs = {
        "frame": (frame, "at the noise level of the pass"),
        **condition,
        "coefficients": ((4,), ddim),
        "cos_sin": ((2, config.rotary_dim // 2), "cosines, then sines of position * 10000^(-2i / rotary_dim)"),
        "mask": ((config.window_frames + 1,), f"0 where the frame attends, else {MASKED:g}; the last one is its own"),
        **{f"{name}_{block}": ring for block in range(config.num_blocks) for name in ("keys", "values")},
    }
    new = ((config.num_blocks, *key), "of this frame")
    outputs = {"next_frame": (frame, "at the noise level of the next pass"), "new_keys": new, "new_values": new}
    return inputs, outputs


def _modulations(graph: GraphBuilder, model: WorldModel) -> str:
    """noise_level and action -> (1, M D), as `WorldModel.modulations`."""
    count = NoiseLevelEmbedding.num_frequencies
    frequencies = torch.exp(torch.arange(count, dtype=torch.float32) * (-math.log(10000.0) / count))  # rounded as there
    scaled = graph.op("Mul", "noise_level", graph.number(1000.0))
    angles = graph.op("Mul", graph.op("Sub", scaled, graph.number(1.0)), graph.constant(array(frequencies)))
    sinusoid = graph.op("Concat", graph.op("Cos", angles), graph.op("Sin", angles), axis=1)
    first, _, second = model.noise_level_embedding.mlp
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    level = graph.linear(_silu(graph, graph.linear(sinusoid, first, exact=True)), second, exact=True)
    c = _silu(graph, graph.op("Add", level, graph.linear("action", model.action_embedding, exact=True)))
    # In the order of `WorldModel.modulations`: the last layer's come last.
    modules = [module for module in model.modules() if isinstance(module, AdaLNModulation)]
    weight, bias = (
        np.concatenate([array(m.get_parameter(f"1.{name}")) for m in modules]) for name in ("weight", "bias")
    )
    return graph.matmul(c, weight.T, bias)


def _vectors(graph: GraphBuilder, modulations: str, num_vectors: int, dim: int) -> Iterator[str]:
    """The modulation vectors (D,), one after another."""
    flat = graph.reshape(modulations, num_vectors * dim)
    for first in range(0, num_vectors, _VECTORS_PER_SPLIT):
        count = min(_VECTORS_PER_SPLIT, num_vectors - first)
        bounds = [graph.constant([index * dim]) for index in (first, first + count)]
        yield from graph.split(graph.op("Slice", flat, *bounds), [dim] * count, axis=0)


def _silu(graph: GraphBuilder, x: str) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def _patchify(graph: GraphBuilder, model: WorldModel) -> str:
    """frame -> (P, D)."""
    config, conv = model.config, model.patch_embedding
    (rows, columns), patch, channels = config.grid, config.patch_size, config.num_channels
    x = graph.reshape("frame", channels, rows, patch, columns, patch)
    x = graph.reshape(graph.transpose(x, 1, 3, 0, 2, 4), config.num_patches, -1)
    weight, bias = (array(conv.get_parameter(name)) for name in ("weight", "bias"))
    return graph.matmul(x, weight.reshape(config.dim, -1).T, bias, exact=True)


def _unpatchify(graph: GraphBuilder, x: str, config: ModelConfig) -> str:
    """(P, patch * patch * C) -> (1, C, H, W_px)."""
    (rows, columns), patch, channels = config.grid, config.patch_size, config.num_channels
    x = graph.transpose(graph.reshape(x, rows, columns, patch, patch, channels), 4, 0, 2, 1, 3)
    return graph.reshape(x, 1, *config.frame_shape)


def _modulate(graph: GraphBuilder, x: str, shift: str, scale: str) -> str:
    """`LN(x) (1 + scale) + shift`: the vectors are those of the one frame, so they are the LayerNorm's weights."""
    weight = graph.op("Add", scale, graph.number(1.0))
    return graph.op("LayerNormalization", x, weight, shift, axis=-1, epsilon=1e-6)


def _dit_block(
    graph: GraphBuilder, x: str, block: DiTBlock, vectors: Iterator[str], attention: Callable[[str, Attention], str]
) -> str:
    """x (P, D) -> (P, D), as `DiTBlock`."""
    shift, scale, gate = next(vectors), next(vectors), next(vectors)
    out = graph.linear(attention(_modulate(graph, x, shift, scale), block.attention), block.attention.to_out)
    x = graph.op("Add", x, graph.op("Mul", out, gate))
    shift, scale, gate = next(vectors), next(vectors), next(vectors)
    hidden = graph.linear(_modulate(graph, x, shift, scale), block.mlp.fc1)
    out = graph.linear(graph.op("Gelu", hidden, approximate="tanh"), block.mlp.fc2)
    return graph.op("Add", x, graph.op("Mul", out, gate))


def _ddim_step(graph: GraphBuilder, output: str) -> None:
    a, b, c, d = graph.split("coefficients", [1, 1, 1, 1], axis=0)
    x0 = graph.op("Add", graph.op("Mul", output, a), graph.op("Mul", "frame", b))
    x0 = graph.op("Clip", x0, graph.number(-1.0), graph.number(1.0))
    graph.op("Add", graph.op("Mul", x0, c), graph.op("Mul", "frame", d), output="next_frame")


class _AttentionNodes:
    """Spatial, temporal and full attention, and the new keys and values of all blocks.

    Rotary embedding rotates pairs of neighbouring numbers. Here the weights of queries and keys are permuted so that
    the first numbers of all pairs come before the second ones. Their products stay the same, and no slices are needed.
    """

    def __init__(self, graph: GraphBuilder, config: ModelConfig):
        self._graph, self._config = graph, config
        self._heads = (config.num_patches, 3, config.num_heads, config.head_dim)
        self._order = np.r_[0 : config.head_dim : 2, 1 : config.head_dim : 2]
        self._temporal_cos_sin = graph.split("cos_sin", [1, 1], axis=0)
        self._spatial_cos_sin = spatial_cos_sin(config.rotary_dim, config.grid)
        self._mask = graph.reshape("mask", config.window_frames + 1, 1, 1, 1)
        self._numbers = (config.num_patches, config.num_heads, config.head_dim)
        self._new_keys: list[str] = []
        self._new_values: list[str] = []

    def spatial(self, x: str, attention: Attention) -> str:
        """(P, D) -> (P, D): every patch attends to every patch."""
        graph = self._graph
        cos_sin = [graph.constant(array(part)) for part in self._spatial_cos_sin.unbind(-1)]  # (P, K/2)
        qkv = graph.transpose(self._qkv(x, attention), 1, 2, 0, 3)  # (3, N, P, K)
        qk, v = graph.split(qkv, [2, 1], axis=0)
        q, k = graph.split(self._rotate(qk, *cos_sin), [1, 1], axis=0)
        scores = graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
        out = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)  # (1, N, P, K)
        return graph.reshape(graph.transpose(out, 0, 2, 1, 3), self._config.num_patches, self._config.dim)

    def temporal(self, x: str, attention: Attention) -> str:
        """(P, D) -> (P, D): every patch attends to its own position in the window's frames."""
        graph = self._graph
        q, k, v, keys, values = self._with_ring(x, attention, *self._temporal_cos_sin)
        # Each patch has one query. Sums of products are faster here than a matrix product for each patch and head.
        dots = [graph.op("ReduceSum", graph.op("Mul", q, part), graph.constant([3]), keepdims=1) for part in (keys, k)]
        scores = graph.op("Add", graph.op("Concat", *dots, axis=0), self._mask)  # (W + 1, P, N, 1)
        old, own = graph.split(graph.op("Softmax", scores, axis=0), [self._config.window_frames, 1], axis=0)
        out = graph.op("ReduceSum", graph.op("Mul", old, values), graph.constant([0]), keepdims=1)
        out = graph.op("Add", out, graph.op("Mul", own, v))
        return graph.reshape(out, self._config.num_patches, self._config.dim)

    def full(self, x: str, attention: Attention) -> str:
        """(P, D) -> (P, D): every patch attends to every patch of the window's frames."""
        graph, (num_patches, num_heads, head_dim) = self._graph, self._numbers
        assert isinstance(attention, FullAttention)
        half = [num_patches, 1, 1, self._config.rotary_dim // 2]
        angles = [
            graph.op(
                "Concat",
                graph.op("Expand", graph.reshape(temporal, 1, 1, 1, -1), graph.constant(half)),
                graph.reshape(graph.constant(array(spatial)), *half),
                axis=-1,
            )
            for temporal, spatial in zip(self._temporal_cos_sin, self._spatial_cos_sin.unbind(-1), strict=True)
        ]
        q, k, v, keys, values = self._with_ring(x, attention, *angles)
        keys, values = (
            graph.reshape(graph.op("Concat", *parts, axis=0), -1, num_heads, head_dim)
            for parts in ((keys, k), (values, v))
        )
        q = graph.transpose(graph.reshape(q, *self._numbers), 1, 0, 2)  # (N, P, K)
        scores = graph.op("MatMul", q, graph.transpose(keys, 1, 2, 0))  # (N, P, (W + 1) P)
        window = self._config.window_frames + 1
        mask = graph.op("Expand", graph.reshape("mask", window, 1), graph.constant([window, num_patches]))
        scores = graph.op("Add", scores, graph.reshape(mask, 1, 1, -1))
        out = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), graph.transpose(values, 1, 0, 2))
        return graph.reshape(graph.transpose(out, 1, 0, 2), num_patches, self._config.dim)

    def _with_ring(self, x: str, attention: Attention, cos: str, sin: str) -> tuple[str, str, str, str, str]:
        """Queries, keys and values of the frame, (1, P, N, K), and keys and values of the ring, (W, P, N, K)."""
        graph, block = self._graph, len(self._new_keys)
        qk, v = graph.split(self._qkv(x, attention), [2, 1], axis=1)
        q, k = graph.split(self._rotate(qk, cos, sin), [1, 1], axis=1)  # (P, 1, N, K)
        q, k, v = (graph.reshape(part, 1, *self._numbers) for part in (q, k, v))
        self._new_keys.append(k)
        self._new_values.append(v)
        keys, values = (graph.reshape(f"{name}_{block}", -1, *self._numbers) for name in ("keys", "values"))
        return q, k, v, keys, values

    def write_outputs(self) -> None:
        """The graph's outputs new_keys and new_values."""
        shape = (self._config.num_blocks, self._config.num_patches, self._config.dim)
        for name, parts in (("new_keys", self._new_keys), ("new_values", self._new_values)):
            joined = self._graph.op("Concat", *parts, axis=0)
            self._graph.op("Reshape", joined, self._graph.constant([*shape]), output=name)

    def _qkv(self, x: str, attention: Attention) -> str:
        """(P, D) -> (P, 3, N, K); queries are scaled by 1 / sqrt(K)."""
        weight = array(attention.to_qkv.weight).reshape(3, self._config.num_heads, self._config.head_dim, -1).copy()
        weight[:2] = weight[:2][:, :, self._order]
        weight[0] *= self._config.head_dim**-0.5
        return self._graph.reshape(self._graph.matmul(x, weight.reshape(3 * self._config.dim, -1).T), *self._heads)

    def _rotate(self, x: str, cos: str, sin: str) -> str:
        """Rotate (..., K) by angles whose cosines and sines broadcast to (..., K/2)."""
        graph, half = self._graph, self._config.head_dim // 2
        a, b = graph.split(x, [half, half], axis=-1)
        real = graph.op("Sub", graph.op("Mul", a, cos), graph.op("Mul", b, sin))
        imaginary = graph.op("Add", graph.op("Mul", a, sin), graph.op("Mul", b, cos))
        return graph.op("Concat", real, imaginary, axis=-1)
