"""Whole steps as CUDA graphs: hundreds of kernels launched as one, where nothing in them waits for the host."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 2
"""Calls before recording: libraries choose kernels, and Triton compiles, in the first."""


def can_capture(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether a training step can be recorded: torch's grouped product waits for the host elsewhere."""
    return device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) >= (9, 0)


def capture(function: Callable[..., Any], *examples: Tensor, pool: Any = None) -> Callable[..., Any]:
    """Record a function's kernels and return a function that replays them.

    Args:
        function: Takes the examples; may change tensors that outlive it; the random numbers that it draws go on
            from torch's global generator at each replay.
        examples: Inputs of the shape, dtype and device of every later call.
        pool: Memory to share with other recorded functions, from `torch.cuda.graph_pool_handle`.

    Returns:
        A function of inputs like the examples. Its result lies in memory that the next call of any function of
        the pool overwrites.
    """
    inputs = [example.clone() for example in examples]
    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    beside.active = True
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
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
    """Return the one stream of warm-ups and recording: what libraries keep for a stream, they keep once."""
    return torch.cuda.Stream()


class SideStream:
    """Work beside the main chain while a graph is recorded: what only sums gradients need not hold up the rest.

    Products of weight gradients then fill the gaps that memory-bound kernels leave. Outside of recording, work
    runs in line.
    """

    def __init__(self) -> None:
        self.active = False
        self._side: torch.cuda.Stream | None = None
        self._kept: list[Tensor] = []

    def run(self, work: Callable[[], Any], *kept: Tensor) -> None:
        """Do `work` beside what follows; `kept` are tensors it reads, whose memory must not be reused before."""
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


beside = SideStream()
