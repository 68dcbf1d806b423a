"""Questions to torch, each answered in a child process of its own (`torch_answers.py`).

The parent must never import torch or create a CUDA context: it holds the study, and a broken GPU must not end it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ANSWERS = Path(__file__).with_name("torch_answers.py")
_POLL_S = 0.25


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
    # -P keeps that file's folder out of the child's import path, where our names could shadow a library's.
    child = subprocess.Popen(
        [sys.executable, "-P", str(_ANSWERS), json.dumps(request)],
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
