"""torch.compile as training uses it: what it does where compiling fails, and when training is stopped meanwhile.

Its modules are imported where they are used: they take seconds, and most trainings on a CPU do without.
"""

import errno
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch._guards import CompileContext

from dreamrun.training.distributed import rank

MAX_REASON_CHARS = 200


class CompilationStoppedError(KeyboardInterrupt):
    """A signal has asked training to stop while torch.compile was at work, which may take minutes."""


class Compiler:
    """Compiles blocks with torch's Inductor. It is a backend of torch.compile.

    Args:
        falls_back: if compiling fails, warn and run the blocks as they are. Otherwise it raises.
    """

    def __init__(self, falls_back: bool = True):
        self._falls_back, self._is_stopped = falls_back, False
        self._blocks: list[nn.Module] = []

    def compile(self, blocks: nn.ModuleList) -> None:
        """Let blocks compile themselves when they first see inputs of a shape."""
        # Each task has clips of one shape, two if ranks or micro-batches share them unevenly, and a mask of its own.
        # Validation and generated context have others. After eight programs, the default, torch would stop compiling.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.optimize_ddp = False  # it would cut each block in two, to send gradients
        self._blocks = [*blocks]
        for block in blocks:
            block.compile(backend=self)

    def stop(self) -> None:
        """Compile nothing more. Signal handlers call this.

        Raises:
            CompilationStoppedError: something is being compiled.
        """
        self._is_stopped = True
        if CompileContext.current_compile_id() is not None:
            raise CompilationStoppedError

    def __call__(self, graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable:
        """Compile a graph, forward and backward."""
        import torch._functorch.config
        from torch._inductor.compile_fx import compile_fx

        if self._is_stopped:
            raise CompilationStoppedError
        try:
            # The backward pass too, now: an error in the midst of it could not be caught.
            with torch._functorch.config.patch(force_non_lazy_backward_lowering=True):
                return cast(Callable, compile_fx(graph, inputs))
        except Exception as error:
            if not self._falls_back:
                raise
            for block in self._blocks:
                block._compiled_call_impl = None  # from the next call on
            if rank() == 0:
                print(f"warning: training goes on without torch.compile: {describe(error)}", file=sys.stderr)
            return graph.forward


def is_compile_error(error: RuntimeError) -> bool:
    """Whether torch.compile has raised an error."""
    return "torch._dynamo" in sys.modules and isinstance(error, torch._dynamo.exc.TorchDynamoException)


def describe(error: BaseException) -> str:
    """Why torch.compile has failed, in one line."""
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InvalidCxxCompiler
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    causes = [error]
    while cause := getattr(causes[-1], "inner_exception", None) or causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if any(isinstance(cause, InvalidCxxCompiler) for cause in causes):
        return "there is no C++ compiler (such as g++, or what the variable CXX names)"
    text = " ".join(str(error).split())
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes) or "No space left" in text:
        return f"no space is left on the disk of {cache_dir()} (TORCHINDUCTOR_CACHE_DIR names another folder)"
    while isinstance(error, BackendCompilerFailed):
        error = error.inner_exception
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON_CHARS]
