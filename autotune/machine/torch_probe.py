"""Questions to torch, each answered in a child process of its own.

The parent must never import torch or create a CUDA context: it holds the study, and a broken GPU must not end it. So
this file has two halves. `ask` runs in the parent and imports only the standard library; the rest runs in the child,
which is started from this file by its path. The file therefore imports nothing else of this package.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_POLL_S = 0.25
# Load before the warm speed is measured: a T4 reaches its power cap within seconds.
_WARM_LOAD_S = 10.0
# Rows and columns of the products: about 1.5 ms on an H100 and 45 ms on a T4 in fp16, 30 ms on 2 CPU cores.
_MATMUL_WIDTH = {"cuda": 8192, "cpu": 1024}
# Well past any cache: an H100 has 50 MB of L2.
_COPY_BYTES = {"cuda": 512 * 2**20, "cpu": 128 * 2**20}


class ProbeError(RuntimeError):
    """The child process with torch crashed, hung, or could not do what was asked."""


def ask(
    request: dict[str, Any],
    timeout_s: float,
    visible: str | None = None,
    while_waiting: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Run one request in a fresh Python process and return its answer.

    Args:
        request: `{"task": "inspect"}`, or `{"task": "measure", "device", "dtypes", "warm_dtype", "seconds",
            "threads"}`.
        timeout_s: Seconds after which the child is killed, > 0.
        visible: Value of CUDA_VISIBLE_DEVICES for the child (a GPU UUID, or "" for none); None inherits it.
        while_waiting: Called about four times a second until the answer comes.

    Returns:
        The child's JSON answer.

    Raises:
        ProbeError: The child failed or did not answer in time; the message says which.
    """
    # -P keeps this file's folder out of the child's import path, where our names could shadow a library's.
    child = subprocess.Popen(
        [sys.executable, "-P", __file__, json.dumps(request)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(visible),
    )

    try:
        output, errors = _wait(child, timeout_s, while_waiting)
    except BaseException:
        _end(child)
        raise

    if child.returncode != 0:
        raise ProbeError(f"torch failed in a child process ({_exit_words(child.returncode)}): {_last_line(errors)}")

    try:
        answer: dict[str, Any] = json.loads(_last_line(output))
    except ValueError as error:
        raise ProbeError(f"torch answered without a result: {_last_line(output)!r}") from error
    return answer


def _environment(visible: str | None) -> dict[str, str]:
    # CUDA numbers the fastest GPU first unless told to follow the bus, as NVML does.
    environment = os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    return environment


def _wait(
    child: subprocess.Popen[str], timeout_s: float, while_waiting: Callable[[], object] | None
) -> tuple[str, str]:
    deadline = time.monotonic() + timeout_s

    while True:
        try:
            return child.communicate(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise ProbeError(f"torch did not answer within {timeout_s:g} s in a child process") from None

        if while_waiting is not None:
            while_waiting()


def _end(child: subprocess.Popen[str]) -> None:
    child.kill()
    # A process stuck inside the driver cannot be reaped: leave it rather than hang with it.
    with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
        child.communicate(timeout=5)


def _exit_words(returncode: int) -> str:
    return f"killed by signal {-returncode}" if returncode < 0 else f"exit {returncode}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


# ---- From here on: the child ---------------------------------------------------------------


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
        answer["cuda_error"] = _last_line(str(error))

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


def _matmul_error(dtype: torch.dtype, index: int) -> str:
    """Return what is wrong with a small product on the GPU, held against the CPU's in fp32; "" if nothing is."""
    import torch

    left = torch.randn(64, 64)
    right = torch.randn(64, 64)
    try:
        product = left.to(f"cuda:{index}", dtype) @ right.to(f"cuda:{index}", dtype)
        on_cpu = product.float().cpu()
    except (RuntimeError, AssertionError) as error:
        return _last_line(str(error))

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
