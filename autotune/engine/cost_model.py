"""What an optimizer step costs: a few probes of the real trainer -> seconds and bytes of any configuration.

A trainer that counts its own work (see `Trainer.counts`) lets the planner predict configurations it never ran:

    seconds of an optimizer step = passes x (a + b x FLOPs of a pass + c x weights) + d x weights
    bytes at the peak            = fixed bytes + max(e + f x bytes of a pass, bytes of an update)

a to f are fitted, none negative, to relative errors: a slow shape must not outweigh a fast one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

_SPEED_TOLERANCE = 0.03
"""Share by which a smaller pass may be slower than the fastest and still be chosen: free memory is worth more."""
_HEADROOM_FRAC = 0.08
"""Share of the memory that is left free for fragmentation and the driver's own needs."""


@dataclass(frozen=True)
class Counts:
    """The work of one configuration, counted and not measured.

    Args:
        step_tokens: Tokens of an optimizer step.
        passes: Forward and backward passes of an optimizer step.
        pass_flops: Floating-point operations of a pass.
        weights: Weights, active or not.
        fixed_bytes: Weights, gradients and optimizer state.
        pass_bytes: What a pass keeps and works in.
        update_bytes: What an update works in.
    """

    step_tokens: float
    passes: float
    pass_flops: float
    weights: float
    fixed_bytes: float
    pass_bytes: float
    update_bytes: float

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Counts:
        """Return the counts among a trainer's values; further values do no harm."""
        return cls(**{field.name: float(values[field.name]) for field in fields(cls)})


@dataclass(frozen=True)
class Measured:
    """A probe: what was counted, seconds of an optimizer step, and the peak of memory in bytes."""

    counts: Counts
    optimizer_step_s: float
    peak_bytes: float


@dataclass(frozen=True)
class CostModel:
    """The fitted coefficients, in seconds and bytes; see the module's text."""

    pass_s: float
    flop_s: float
    weight_pass_s: float
    weight_s: float
    offset_bytes: float
    pass_factor: float

    @classmethod
    def fit(cls, probes: Sequence[Measured]) -> CostModel:
        """Fit the model.

        Args:
            probes: At least one; their shapes should differ in passes, pass size and weights.

        Returns:
            The model of least squared relative error.
        """
        terms = [_terms_of_seconds(each.counts) for each in probes]
        seconds = _fit(terms, [each.optimizer_step_s for each in probes])

        # Where the update's memory is the larger, the peak says nothing about the pass.
        telling = [each for each in probes if each.counts.pass_bytes > each.counts.update_bytes] or probes
        pass_terms = [[1.0, each.counts.pass_bytes] for each in telling]
        working_bytes = [max(each.peak_bytes - each.counts.fixed_bytes, 1.0) for each in telling]
        bytes_ = _fit(pass_terms, working_bytes)

        return cls(*map(float, seconds), *map(float, bytes_))

    def optimizer_step_s(self, counts: Counts) -> float:
        """Return the expected seconds of an optimizer step."""
        pass_s = self.pass_s + self.flop_s * counts.pass_flops + self.weight_pass_s * counts.weights
        return counts.passes * pass_s + self.weight_s * counts.weights

    def tokens_per_s(self, counts: Counts) -> float:
        """Return the expected training speed."""
        return counts.step_tokens / self.optimizer_step_s(counts)

    def peak_bytes(self, counts: Counts) -> float:
        """Return the expected peak of memory."""
        working = self.offset_bytes + self.pass_factor * counts.pass_bytes
        return counts.fixed_bytes + max(working, counts.update_bytes)

    def fits(self, counts: Counts, memory_bytes: int) -> bool:
        """Return whether the expected peak leaves `_HEADROOM_FRAC` of the memory free."""
        return self.peak_bytes(counts) <= memory_bytes * (1 - _HEADROOM_FRAC)

    def best_pass(self, candidates: Mapping[int, Sequence[Counts]], memory_bytes: int) -> int:
        """Choose how many sequences a pass may have.

        Args:
            candidates: For each limit, the counts of the configurations that have to fit and be fast.
            memory_bytes: Of the device.

        Returns:
            The smallest limit within `_SPEED_TOLERANCE` of the fastest of those that fit; 0 if none fits.
        """
        costs: dict[int, float] = {}
        for limit, all_counts in candidates.items():
            if all(self.fits(counts, memory_bytes) for counts in all_counts):
                costs[limit] = sum(self.optimizer_step_s(counts) / counts.step_tokens for counts in all_counts)

        fastest = min(costs.values(), default=0.0)
        nearly_as_fast = [limit for limit, cost in costs.items() if cost <= fastest * (1 + _SPEED_TOLERANCE)]
        return min(nearly_as_fast, default=0)


def _terms_of_seconds(counts: Counts) -> list[float]:
    """Return what a, b, c and d of the module's text are multiplied by."""
    return [counts.passes, counts.passes * counts.pass_flops, counts.passes * counts.weights, counts.weights]


def _fit(rows: Sequence[Sequence[float]], values: Sequence[float]) -> np.ndarray:
    """Return non-negative coefficients of least squared relative error (Lawson and Hanson 1974, chapter 23)."""
    from scipy.optimize import nnls  # here, as it takes a third of a second to import and most studies fit nothing

    matrix = np.asarray(rows, dtype=float)
    target = np.asarray(values, dtype=float)
    scale = np.maximum(matrix.max(axis=0), 1e-300)  # columns of like size: FLOPs are 1e12 times passes

    solution, _ = nnls(matrix / scale / target[:, None], np.ones(len(target)))
    coefficients: np.ndarray = solution / scale
    return coefficients
