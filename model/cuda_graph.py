"""One generated frame as a CUDA graph."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from dreamrun.model.kv_cache import CacheView

WARM_UP_RUNS = 2  # libraries initialise in the first runs, which must not be captured


class CUDAGraph:
    """A CUDA graph of one generated frame: hundreds of small kernels are recorded once and then launched together.

    Args:
        function: takes tensors and, last, a `CacheView`; returns tensors.
        inputs: example inputs. The graph is captured on copies of the tensors and on this view.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *inputs):
        *tensors, view = inputs
        self._static_inputs = [tensor.clone() for tensor in tensors]
        self._static_view: CacheView = view
        self._capture(function)

    def _capture(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        inputs = (*self._static_inputs, self._static_view)
        # Streams and captures belong to the current device, which need not be the model's.
        with torch.cuda.device(self._static_inputs[0].device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_RUNS):
                    function(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            was_enabled = gc.isenabled()
            gc.disable()  # freeing another graph would invalidate this capture
            try:
                # Other threads may use the device during the capture: the loader pins memory, new weights are loaded.
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    self._static_outputs = function(*inputs)
            finally:
                if was_enabled:
                    gc.enable()

    def __call__(self, *inputs) -> tuple[Tensor, ...]:
        """The function's result for inputs of the captured shapes."""
        *tensors, view = inputs
        for static, tensor in zip(self._static_inputs, tensors, strict=True):
            static.copy_(tensor)
        self._static_view.copy_from(view)
        return tuple(output.clone() for output in self._replay())

    def _replay(self) -> tuple[Tensor, ...]:
        with torch.cuda.device(self._static_inputs[0].device):
            self._graph.replay()
        return self._static_outputs
