"""What a child process does so that it does not outlive its parent."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl that has the kernel signal a child when its parent dies; see prctl(2)."""


def end_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have this process signalled when its parent dies; on Linux alone.

    Args:
        by: The signal; by default it is killed, whatever it is doing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
