"""What a child process does so that it does not outlive its parent."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl that has the kernel signal a child when its parent dies; see prctl(2)."""


def end_with_parent() -> None:
    """Have this process killed when its parent dies, whatever it is doing; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
