"""TODO."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class CUDAGraphRunner:
    """A CUDA graph of one frame's work; its inputs are copied to where the graph reads them.

    Args:
        work: a function of tensors and, last, a `CacheView`; returns tensors.
        inputs: as it will be called with; the graph is captured on them.
    """

    def __init__(self, work: Callable[..., tuple[Tensor, ...]], *inputs):
        *tensors, view = inputs
        self._tensors, self._view = [tensor.clone() for tensor in tensors], view
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up in the first runs
            for _ in range(2):
                work(*self._tensors, view)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: the loader pins memory, newer weights come in.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = work(*self._tensors, view)

    def __call__(self, *inputs) -> tuple[Tensor, ...]:
        """The same work on other inputs of the same shapes."""
        *tensors, view = inputs
        for mine, its in zip(self._tensors, tensors, strict=True):
            mine.copy_(its)
        self._view.become(view)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)
