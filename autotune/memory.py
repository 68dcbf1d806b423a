"""Peak memory as a straight line in the micro-batch, from two probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


class MemoryProbeError(ValueError):
    """The probes, or the headroom, cannot give a memory model."""


@dataclass(frozen=True)
class MemoryFit:
    """Peak memory as a straight line in the micro-batch: `fixed_bytes + micro_batch_bytes * micro_batch`."""

    fixed_bytes: float
    micro_batch_bytes: float

    def peak_bytes(self, micro_batch: int) -> int:
        """Return the predicted peak.

        Args:
            micro_batch: sequences per micro-step, >= 1.

        Returns:
            Bytes, rounded up.
        """
        return math.ceil(self.fixed_bytes + self.micro_batch_bytes * micro_batch)


def memory_fit(points: Sequence[tuple[int, int]]) -> MemoryFit:
    """Return the line through two memory probes.

    Args:
        points: two pairs of micro-batch (sequences, >= 1) and measured peak (bytes, > 0).

    Returns:
        The line.

    Raises:
        MemoryProbeError: not two points, the same micro-batch twice, or a peak that does not grow with it.
    """
    if len(points) != 2:
        raise MemoryProbeError(f"the memory model takes two probes, got {len(points)}")
    (small, small_bytes), (large, large_bytes) = sorted(points)
    if small == large:
        raise MemoryProbeError(f"both memory probes ran micro-batch {small}: probe two different sizes")
    slope_bytes = (large_bytes - small_bytes) / (large - small)
    if slope_bytes <= 0:
        raise MemoryProbeError(
            f"peak memory did not grow from micro-batch {small} ({small_bytes:,} bytes) to {large} "
            f"({large_bytes:,} bytes): reset the peak counter before each probe, or probe larger sizes"
        )
    return MemoryFit(small_bytes - slope_bytes * small, slope_bytes)


def largest_micro_batch(fit: MemoryFit, memory_bytes: int, headroom_frac: float = 0.08) -> int:
    """Return the largest micro-batch whose predicted peak leaves the headroom free.

    Args:
        fit: the memory model.
        memory_bytes: memory of the device, > 0.
        headroom_frac: share to leave free, in [0, 1), for fragmentation and the driver's own needs.

    Returns:
        Sequences; 0 when not even one fits.

    Raises:
        MemoryProbeError: the headroom is outside [0, 1).
    """
    if not 0 <= headroom_frac < 1:
        raise MemoryProbeError(f"headroom_frac is {headroom_frac}: give a share in [0, 1)")
    room_bytes = memory_bytes * (1 - headroom_frac) - fit.fixed_bytes
    return max(0, math.floor(room_bytes / fit.micro_batch_bytes))
