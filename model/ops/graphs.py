"""Whole passes and updates as CUDA graphs: hundreds of kernels launched as one, none of which waits for the host."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.ops.grouped import Way, way

_WARM_UPS = 2
"""Calls before recording; in the first of them libraries choose kernels, and Triton compiles."""


def can_capture(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether passes and updates can be recorded: nothing in them may wait for the host."""
    return device.type == "cuda" and way(device, dtype) is not Way.LOOP


def capture(function: Callable[..., Any], *examples: Tensor, pool: Any = None) -> Callable[..., Any]:
    """Record a function's kernels and return a function that replays them.

    Args:
        function: Takes the examples, and may change tensors that outlive it. The random numbers that it draws come from
            torch's global generator, and are new ones at each replay.
        examples: Inputs of the shape, dtype and device of every later call.
        pool: Memory to share with other recorded functions, from `torch.cuda.graph_pool_handle`.

    Returns:
        A function of inputs like the examples. Its result lies in memory that the next call of any function of the pool
        overwrites.
    """
    inputs = [example.clone() for example in examples]
    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()

    beside.active = True
    try:
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                function(*inputs)
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            result = function(*inputs)
    finally:
        beside.active = False

    torch.cuda.current_stream().wait_stream(stream)

    def replay(*arguments: Tensor) -> Any:
        for static, argument in zip(inputs, arguments, strict=True):
            static.copy_(argument)

        graph.replay()
        return result

    return replay


@cache
def _stream() -> torch.cuda.Stream:
    """Return the one stream of warm-ups and recording; libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream()


class _SideStream:
    """Work beside the main chain of kernels while a graph is recorded, for what nothing later waits for.

    Products that only add to weight gradients fill the gaps that memory-bound kernels leave. While nothing is recorded,
    work runs in line.
    """

    def __init__(self) -> None:
        self.active = False
        self._side: torch.cuda.Stream | None = None
        self._kept: list[Tensor] = []

    def run(self, work: Callable[[], Any], *kept: Tensor) -> None:
        """Do `work` beside what follows.

        Args:
            work: Launches kernels whose results nothing reads before `join`.
            kept: Tensors that it reads, whose memory must not be reused before `join`.
        """
        if not self.active:
            work()
            return

        if self._side is None:
            self._side = torch.cuda.Stream()
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            work()
        self._kept.extend(kept)

    def join(self) -> None:
        """Wait, on the device, for all work so far."""
        if self._kept and self._side is not None:
            torch.cuda.current_stream().wait_stream(self._side)
        self._kept.clear()


beside = _SideStream()
