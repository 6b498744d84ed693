"""`Replay`: the kernels of a function on a CUDA device, recorded once and launched as one.

The step of a decoding loop is about a hundred kernels of a few microseconds each. Launching them
one by one takes the host many times longer than running them takes the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Replay:
    """A function of tensors on a CUDA device, whose kernels are recorded at its second call.

    From then on a call is the launch of one CUDA graph. So the function must run the same kernels
    each time: only the numbers in its arguments may change, not their shapes nor anything else that
    it reads, and it must not branch on a number.

    Args:
        function: takes tensors, or None; the next call overwrites what it returned.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function: Callable[..., Any] | None = function
        self._warm = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor | None] = []
        self._result: Any = None

    def __call__(self, *inputs: Tensor | None) -> Any:
        """The function's result for these inputs."""
        if self._function is not None:
            if not self._warm:
                # What a kernel sets up when it first runs cannot be recorded.
                self._warm = True
                return self._function(*inputs)
            self._record(self._function, inputs)
            self._function = None  # and what it holds
        for held, given in zip(self._inputs, inputs, strict=True):
            if held is not None and given is not None:
                held.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        return self._result

    def _record(self, function: Callable[..., Any], inputs: tuple[Tensor | None, ...]) -> None:
        # Not `torch.cuda.graph`, which would empty the cache of the allocator first.
        self._inputs = [None if given is None else given.clone() for given in inputs]
        device = next(given.device for given in inputs if given is not None)
        stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._graph.capture_begin(capture_error_mode="thread_local")
            self._result = function(*self._inputs)
            self._graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(stream)
