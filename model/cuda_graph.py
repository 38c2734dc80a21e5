"""CUDA graph of one generated frame: hundreds of small kernels are recorded once and then launched together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamrun.model.kv_cache import CacheView

WARM_UP_RUNS = 2  # libraries initialise in the first runs, which must not be captured


class CUDAGraphRunner:
    """Calls a function by replaying a CUDA graph of it.

    Args:
        function: takes tensors and, last, a `CacheView`; returns tensors.
        inputs: example inputs. The graph is captured on copies of the tensors and on this view.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *inputs):
        *tensors, view = inputs
        self._static_inputs = [tensor.clone() for tensor in tensors]
        self._static_view: CacheView = view
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                function(*self._static_inputs, view)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may use the device during the capture: the loader pins memory, new weights are loaded.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._static_outputs = function(*self._static_inputs, view)

    def __call__(self, *inputs) -> tuple[Tensor, ...]:
        """The function's result for inputs of the captured shapes."""
        *tensors, view = inputs
        for static, tensor in zip(self._static_inputs, tensors, strict=True):
            static.copy_(tensor)
        self._static_view.copy_from(view)
        self._graph.replay()
        return tuple(output.clone() for output in self._static_outputs)
