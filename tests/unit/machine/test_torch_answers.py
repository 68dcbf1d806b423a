"""What the child process with torch answers: the spread of timings."""

from __future__ import annotations

from autotune.machine.torch_answers import relative_spread


def test_relative_spread_by_hand() -> None:
    # Quartiles of 1..7 by the exclusive method: 2, 4, 6.
    assert relative_spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == 1.0
    assert relative_spread([3.0, 3.0, 3.0]) == 0.0
