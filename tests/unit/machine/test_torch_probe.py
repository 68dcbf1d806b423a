"""Questions to torch in a child process: one that hangs and one that fails."""

from __future__ import annotations

import pytest

from autotune.machine import torch_probe


def test_hung_child_is_killed_in_time() -> None:
    request = {"task": "measure", "device": "cpu", "dtypes": ["fp32"], "warm_dtype": "", "seconds": 60, "threads": 1}
    calls: list[None] = []
    with pytest.raises(torch_probe.ProbeError, match="did not answer within 1 s"):
        torch_probe.ask(request, 1.0, "", lambda: calls.append(None))
    assert len(calls) >= 2


def test_failing_child_gives_its_last_line() -> None:
    with pytest.raises(torch_probe.ProbeError, match=r"exit 1\): KeyError: 'task'"):
        torch_probe.ask({}, 30.0)
