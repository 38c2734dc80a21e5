"""A frame captured as a graph, emulated on the CPU: its ops are recorded with all Python values in it, and replayed.

What CUDA itself adds, streams and memory, only `python -m scripts.gpu_check` can try.
"""

import pytest
import torch
from tiny import FULL, TINY, random_inputs, random_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dreamrun.model import Sampler
from dreamrun.model.cuda_graph import CUDAGraph
from dreamrun.model.options import SamplerSettings


class Recorder(TorchDispatchMode):
    """Keeps every op that runs, with its arguments and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.calls.append((op, args, kwargs or {}, op(*args, **(kwargs or {}))))
        return self.calls[-1][-1]


class Recorded(CUDAGraph):
    """Runs the recorded ops again on whatever the static tensors hold."""

    captures = 0

    def _capture(self, function):
        Recorded.captures += 1
        with Recorder() as recorder:
            self._static_outputs = function(*self._static_inputs, self._static_view)
        self._calls = recorder.calls

    def _replay(self):
        new = {}  # by id of the recorded tensor
        for op, args, kwargs, recorded in self._calls:
            args, kwargs = tree_map_only(torch.Tensor, lambda x, new=new: new.get(id(x), x), (args, kwargs))
            results = tree_leaves(op(*args, **kwargs))
            new |= {id(old): result for old, result in zip(tree_leaves(recorded), results, strict=True)}
        return tuple(new[id(output)] for output in self._static_outputs)


class Eager(Recorded):
    """Runs the function on the same static tensors."""

    def _capture(self, function):
        self._function = function

    def _replay(self):
        return self._function(*self._static_inputs, self._static_view)


def run(config, guidance, graph_class):
    """Frames of rollouts that are stepped alone, join, are replaced, leave and pass the window, and get new weights."""
    model = random_model(config)
    frames, _, actions = random_inputs(config, batch=3, num_frames=config.window_frames)
    sampler = type("_", (Sampler,), {"graph_class": graph_class})(model, SamplerSettings(2, guidance=guidance))
    sampler.reset(frames[:2, :2], actions[:2, :2])
    generated = []
    for t in range(21):
        if t == 9:
            sampler.reset(frames[2:, :3], actions[2:, :3], [2], [7])
        elif t == 14:
            sampler.reset(frames[:1, :1], actions[:1, :1], [1], [9])
        elif t == 17:
            sampler.free([0])
        elif t == 19:
            with torch.no_grad():
                next(iter(model.parameters())).mul_(1.5)
            sampler.rebuild()
        slots = [1] if t in (5, 6) else sampler.slots
        generated.append(sampler.step(actions[: len(slots), t % config.window_frames], slots))
    return torch.cat(generated)


@pytest.mark.parametrize(("config", "guidance"), [(TINY, 1.7), (FULL, 1.0)], ids=["guided", "full"])
def test_a_captured_frame_serves_while_rollouts_come_and_go(config, guidance, monkeypatch):
    monkeypatch.setattr(Recorded, "captures", 0)
    recorded, eager, plain = (run(config, guidance, graph_class) for graph_class in (Recorded, Eager, None))
    assert recorded.equal(eager)
    torch.testing.assert_close(recorded, plain, atol=1e-4, rtol=0)
    assert Recorded.captures == 2, "at the start, and when a third slot is needed"
