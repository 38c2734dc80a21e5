"""Fake CUDA: count what a training step or a frame would make a GPU do, without a GPU.

Tensors on the CPU are real, those on cuda:0 are fakes, which have shapes and no contents. Each kernel is counted, and
each place where the host would wait for the device: reading a number, choosing by a mask, and copies that the program
does not ask to run beside it. It needs a build of torch with CUDA, but no driver. As a program it prints JSON: kind of
step -> kernels, bytes, waits.

    PYTHONPATH=CUDA_TORCH:PARENT_OF_CLONE python tests/fake_cuda.py
"""

import collections
import copy
import json
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import dreamrun.model.inference
import dreamrun.model.sampler
import dreamrun.training.generated_context
from dreamrun.data.batch import Batch
from dreamrun.games.game import Game
from dreamrun.model import PRESETS, Sampler, SamplerSettings, WorldModel
from dreamrun.model.cuda_graph import CUDAGraph
from dreamrun.training import setup
from dreamrun.training.loop import train_step
from dreamrun.training.tasks import assign_tasks
from dreamrun.training.train_config import TrainConfig, resolve

ROOT, DEVICE = Path(__file__).parent.parent, torch.device("cuda", 0)
VIEWS = {  # ops that launch no kernel
    "view", "_unsafe_view", "permute", "transpose", "t", "expand", "slice", "select", "unsqueeze", "squeeze",
    "split", "split_with_sizes", "unbind", "detach", "alias", "as_strided", "view_as_complex", "view_as_real",
    "_reshape_alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "_conj", "diagonal",
    "new_empty_strided", "resolve_conj",
}  # fmt: skip
KINDS = {
    "published": {"noise_levels": "uniform"},
    "teacher forcing": {"noise_levels": "teacher-forcing"},
    "fill": {"noise_levels": "teacher-forcing", "fill_share": 0.5},
    "scheduled sampling": {"noise_levels": "teacher-forcing", "scheduled_sampling": 0.5},
    "self-forcing": {"noise_levels": "teacher-forcing", "self_forcing": 0.5},
}


class FakeCUDA(TorchDispatchMode):
    """While it is on, tensors that are made on cuda:0 or copied there are fakes."""

    def __init__(self):
        super().__init__()
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self.reset()

    def reset(self):
        self.kernels, self.bytes, self.waits = 0, 0, collections.Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), op.overloadpacket.__name__
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        devices = [leaf for leaf in (*args, kwargs.get("device")) if isinstance(leaf, torch.device)]
        goes_to_gpu = any(device.type == "cuda" for device in devices)
        if op.namespace == "prim" or not (goes_to_gpu or any(isinstance(each, FakeTensor) for each in tensors)):
            return op(*args, **kwargs)
        args, kwargs = pytree.tree_map_only(
            torch.device, lambda device: DEVICE if device.type == "cuda" else device, (args, kwargs)
        )
        key = "CompositeImplicitAutograd"
        if name != "scaled_dot_product_attention" and torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key):
            with self:
                result = op.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if name == "_local_scalar_dense":
            self._wait("reads a number")
            return True if args[0].dtype == torch.bool else 1
        if name == "nonzero":
            self._wait("nonzero")
            with self._fakes:
                return torch.zeros(3, args[0].dim(), dtype=torch.long, device=DEVICE)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            self._check_indices(args[1])
        to_cpu = [device for device in devices if device.type == "cpu"]
        if name == "_to_copy" and to_cpu:
            self._wait("copies to the host")
            dtype = kwargs.get("dtype") or args[0].dtype
            return torch.full(args[0].shape, dtype == torch.bool, dtype=dtype)
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            runs_beside = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            if not isinstance(source, FakeTensor) and not runs_beside:
                self._wait("copies to the device")
        args, kwargs = pytree.tree_map_only(
            torch.Tensor,
            lambda tensor: tensor if isinstance(tensor, FakeTensor) else self._fakes.from_tensor(tensor),
            (args, kwargs),
        )
        with self._fakes:
            result = op(*args, **kwargs)
        touched = [leaf for leaf in pytree.tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if name not in VIEWS and any(tensor.device.type == "cuda" for tensor in touched):
            self.kernels += 1
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in touched)
        return result

    def _check_indices(self, indices):
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                self._wait("chooses by a mask")
            elif index is not None and not isinstance(index, FakeTensor):
                self._wait("indices on the host")

    def _wait(self, what):
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(ROOT))]
        inner = [frame for frame in frames if frame.filename != __file__]
        where = f"{Path(inner[-1].filename).relative_to(ROOT)}:{inner[-1].lineno}" if inner else "torch"
        self.waits[f"{where} {what}"] += 1


class FakeGenerator:
    """CUDA's random streams need a driver."""

    def __init__(self, device="cpu"):
        self.device = torch.device(device)

    def manual_seed(self, seed):
        return self


class FakeGraph(CUDAGraph):
    """Runs its function again, and counts the waits in it."""

    waits: ClassVar[collections.Counter] = collections.Counter()
    mode: ClassVar[FakeCUDA]

    def _capture(self, function):
        self._function = function

    def _replay(self):
        before = self.mode.waits.copy()
        result = self._function(*self._static_inputs, self._static_view)
        FakeGraph.waits += self.mode.waits - before
        return result


def to_fake(model, dtype=torch.float32, requires_grad=False):
    """Replace all weights by fakes on cuda:0."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = weight.detach().to(DEVICE, dtype, non_blocking=True)
                module._parameters[name] = torch.nn.Parameter(fake, requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(DEVICE, non_blocking=True)
    return model


@contextmanager
def fake_cuda():
    """Fake tensors on cuda:0 wherever the package makes any."""
    saved = torch.Generator, torch.tensor, torch.Tensor.uniform_, torch.Tensor.normal_
    uniform, normal, tensor = torch.Tensor.uniform_, torch.Tensor.normal_, torch.tensor
    torch.cuda._lazy_init = lambda: None
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.Generator = FakeGenerator
    torch.Tensor.uniform_ = lambda self, *args, generator=None: uniform(self, *args)
    torch.Tensor.normal_ = lambda self, *args, generator=None: normal(self, *args)
    torch.tensor = lambda data, device=None, **options: (
        tensor(data, **options) if device is None else tensor(data, **options).to(device)
    )
    dreamrun.model.sampler._randn = lambda shape, generator: torch.randn(shape, device=generator.device)
    dreamrun.model.inference.has_native_bf16 = lambda device: True
    dreamrun.training.generated_context.prepare_for_inference = lambda model, *_: to_fake(
        WorldModel(model.config).eval(), torch.bfloat16
    )
    Sampler.graph_class = FakeGraph
    try:
        with FakeCUDA() as mode, torch.autograd.set_multithreading_enabled(False):
            FakeGraph.mode = mode
            yield mode
    finally:
        torch.Generator, torch.tensor, torch.Tensor.uniform_, torch.Tensor.normal_ = saved


def _backward(model):
    """In place of a backward pass, which needs a driver: it never waits for the device."""
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)


def count_step(preset, batch_size, **options):
    """Kernels, bytes and waits of the second training step, without its backward pass."""
    config = resolve(TrainConfig("data", "out", preset=preset, batch_size=batch_size, **{"fill_share": 0.0, **options}))
    model_config = PRESETS[preset]
    with fake_cuda() as mode:
        setup.copy = type("copy", (), {"deepcopy": staticmethod(lambda model: to_fake(WorldModel(model.config)))})
        WorldModel.to = lambda self, *_: to_fake(self, requires_grad=True)
        try:
            state = setup.create_train_state(config, model_config, Game(), {}, DEVICE)
        finally:
            del WorldModel.to
            setup.copy = copy
        run = setup.Run(config, DEVICE, None, None, [], assign_tasks(config), 1, 1000, state, None)
        shape, rng = (batch_size, model_config.window_frames), np.random.default_rng(0)
        batch = Batch(
            torch.zeros(*shape, 64, 64, 3, dtype=torch.uint8), torch.zeros(*shape, model_config.num_actions),
            np.arange(batch_size), np.zeros(batch_size, int), rng.integers(0, 2**63, batch_size).astype(np.uint64),
        )  # fmt: skip
        torch.Tensor.backward = lambda _: _backward(state.model)
        train_step(run, batch)
        mode.reset()
        train_step(run, batch)
    return {"kernels": mode.kernels, "gigabytes": round(mode.bytes / 1e9, 1), "waits": dict(mode.waits)}


def count_frame(preset, batch_size, guidance):
    """Kernels and waits of a frame of rollouts with a full window, and the waits in its captured part."""
    with fake_cuda() as mode:
        model = to_fake(WorldModel(PRESETS[preset]), torch.bfloat16).eval()
        sampler, config = Sampler(model, SamplerSettings(10, guidance=guidance)), model.config
        sampler.reset(torch.zeros(batch_size, config.window_frames - 1, *config.frame_shape))
        actions = torch.eye(config.num_actions)[torch.arange(batch_size) % config.num_actions]
        sampler.step(actions)
        mode.reset()
        FakeGraph.waits = collections.Counter()
        sampler.step(actions)
    return {"kernels": mode.kernels, "waits": dict(mode.waits), "captured waits": dict(FakeGraph.waits)}


if __name__ == "__main__":
    preset, batch = sys.argv[1:] or ("small", 8)
    results = {f"step, {kind}": count_step(preset, int(batch), **options) for kind, options in KINDS.items()}
    results |= {f"frame, guidance {scale}": count_frame(preset, 4, scale) for scale in (1.0, 1.5)}
    print(json.dumps(results, indent=2))
