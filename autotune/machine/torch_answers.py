"""What torch says of this machine: the program that `torch_probe.ask` starts by its path.

It takes a request as JSON and prints the answer as JSON. Its folder is not on the import path, so it imports nothing
else of this package.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Load before the warm speed is measured: a T4 reaches its power cap within seconds.
_WARM_LOAD_S = 10.0
# Rows and columns of the products: about 1.5 ms on an H100 and 45 ms on a T4 in fp16, 30 ms on 2 CPU cores.
_MATMUL_WIDTH = {"cuda": 8192, "cpu": 1024}
# Well past any cache: an H100 has 50 MB of L2.
_COPY_BYTES = {"cuda": 512 * 2**20, "cpu": 128 * 2**20}


def _inspect() -> dict[str, Any]:
    """Return what torch is, and what it can really do on each visible GPU."""
    import torch

    answer: dict[str, Any] = {
        "torch_version": torch.__version__,
        "cuda_version": torch.version.cuda or "",
        "arch_list": [],
        "gpus": [],
        "cuda_error": "",
    }
    if torch.version.cuda is None:
        return answer

    try:
        torch.zeros(1, device="cuda")  # unlike is_available(), says why it cannot
        answer["arch_list"] = torch.cuda.get_arch_list()
        answer["gpus"] = [_inspect_gpu(index) for index in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        answer["cuda_error"] = _reason(error)

    return answer


def _inspect_gpu(index: int) -> dict[str, Any]:
    import torch

    major, minor = torch.cuda.get_device_capability(index)
    with torch.cuda.device(index):
        native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)

    return {
        "name": torch.cuda.get_device_name(index),
        "capability": f"{major}.{minor}",
        "native_bf16": native_bf16,
        "fp16_error": _matmul_error(torch.float16, index),
        "bf16_error": _matmul_error(torch.bfloat16, index) if native_bf16 else "",
    }


def _reason(error: Exception) -> str:
    """Return the last line of an error, which says more than the trace of C++ calls before it."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _matmul_error(dtype: torch.dtype, index: int) -> str:
    """Return what is wrong with a small product on the GPU, held against the CPU's in fp32; "" if nothing is."""
    import torch

    left = torch.randn(64, 64)
    right = torch.randn(64, 64)
    try:
        product = left.to(f"cuda:{index}", dtype) @ right.to(f"cuda:{index}", dtype)
        on_cpu = product.float().cpu()
    except (RuntimeError, AssertionError) as error:
        return _reason(error)

    # Entries are of size 8; bf16 keeps 8 bits, so inputs and result round by about 0.03 each.
    largest_error = float((on_cpu - left @ right).abs().max())
    return "" if largest_error < 0.5 else f"a 64 x 64 product is wrong by {largest_error:g}"


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return matrix-product and copy speed, by medians, on random data."""
    import torch

    device = str(request["device"])
    seconds = float(request["seconds"])
    if device == "cpu":
        torch.set_num_threads(int(request["threads"]))

    timings = {dtype: _matmul_timings(dtype, device, seconds) for dtype in request["dtypes"]}
    copy_s = statistics.median(_copy_timings(device, seconds))
    warm_dtype = str(request["warm_dtype"])
    memory_bytes = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 0

    return {
        "torch_version": torch.__version__,
        "cuda_version": torch.version.cuda or "",
        "memory_bytes": memory_bytes,
        "matmul_flops": {dtype: _flops(device, times_s) for dtype, times_s in timings.items()},
        "matmul_flops_warm": _warm_flops(warm_dtype, device) if warm_dtype else 0.0,
        "copy_bytes_per_s": 2 * _COPY_BYTES[device] / copy_s,
        "noise": {dtype: relative_spread(times_s) for dtype, times_s in timings.items()},
    }


def relative_spread(values: list[float]) -> float:
    """Return the interquartile range divided by the median.

    Args:
        values: At least two positive measurements of one thing.

    Returns:
        A fraction, 0 when all are equal. Quartiles, because one late interrupt must not decide it.
    """
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle


def _flops(device: str, times_s: list[float]) -> float:
    # A product of two n x n matrices is n^3 multiplications and as many additions.
    return 2.0 * _MATMUL_WIDTH[device] ** 3 / statistics.median(times_s)


def _matmul_timings(dtype: str, device: str, seconds: float) -> list[float]:
    return _timings(_matmul(dtype, device), device, seconds)


def _matmul(dtype: str, device: str) -> Callable[[], object]:
    import torch

    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    width = _MATMUL_WIDTH[device]

    # Random, never zeros: a GPU draws less power on zeros and so clocks higher than any training will.
    left, right = (torch.randn(width, width, device=device, dtype=kind) for _ in range(2))
    result = torch.empty_like(left)

    return lambda: torch.mm(left, right, out=result)


def _warm_flops(dtype: str, device: str) -> float:
    multiply = _matmul(dtype, device)
    _timings(multiply, device, _WARM_LOAD_S)
    return _flops(device, _timings(multiply, device, 1.0))


def _copy_timings(device: str, seconds: float) -> list[float]:
    import torch

    source = torch.randn(_COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    return _timings(lambda: target.copy_(source), device, seconds)


def _timings(operation: Callable[[], object], device: str, seconds: float) -> list[float]:
    """Return the seconds of each repetition: at least 5, and as many as `seconds` allow."""
    time_once = _time_on_gpu if device == "cuda" else _time_on_cpu

    # The first ones allocate memory and choose kernels.
    for _ in range(2):
        time_once(operation)

    times_s: list[float] = []
    start_s = time.monotonic()
    while len(times_s) < 5 or time.monotonic() - start_s < seconds:
        times_s.append(time_once(operation))
    return times_s


def _time_on_cpu(operation: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    operation()
    return time.perf_counter() - start_s


def _timing_event() -> torch.cuda.Event:
    import torch

    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, unused-ignore]


def _time_on_gpu(operation: Callable[[], object]) -> float:
    start = _timing_event()
    end = _timing_event()

    start.record()
    operation()
    end.record()
    end.synchronize()

    return float(start.elapsed_time(end)) / 1000  # events count milliseconds


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["task"] == "inspect":
        return _inspect()
    return _measure(request)


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))
