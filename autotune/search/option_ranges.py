"""What the numbers among the parameters of samplers and pruners may be.

Optuna takes many that it cannot work with: it fails, loops or fills the memory when it uses them, in the middle of a
night.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from autotune.core.text import shown

_MOST_WHOLE = 2**53
_MOST_IN_MEMORY = 100_000
# The least and the most of a parameter, whatever sampler or pruner has it. Counts are 0 or more where nothing else is
# said, and other numbers are finite.
_RANGES: Mapping[str, tuple[float, float]] = {
    "n_ei_candidates": (1, _MOST_IN_MEMORY),
    "popsize": (2, _MOST_IN_MEMORY),
    "inc_popsize": (-1, _MOST_IN_MEMORY),  # -1 is Optuna's own default
    "population_size": (2, _MOST_IN_MEMORY),
    "n_min_trials": (1, _MOST_WHOLE),
    "min_resource": (1, _MOST_WHOLE),
    "max_resource": (1, _MOST_WHOLE),
    "reduction_factor": (2, _MOST_WHOLE),
    "min_early_stopping_rate": (0, 64),  # an exponent of the reduction factor
    "percentile": (0, 100),
    "p_threshold": (0, 1),
    "lost_frac": (0.001, 0.999),
    "mutation_prob": (0, 1),
    "crossover_prob": (0, 1),
    "swapping_prob": (0, 1),
    # Both are weights in units of the space or of a trial; far beyond these, sums of them overflow or vanish.
    "prior_weight": (1e-6, 1e6),
    "sigma0": (1e-6, 1e6),
}


def faults_of(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the parameters that are out of their range, each with the words for it.

    Args:
        options: Parameters of a sampler or a pruner, under Optuna's names and of the right types.
    """
    for option, value in options.items():
        # True and False count as whole numbers.
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue

        anything = (0, _MOST_WHOLE) if isinstance(value, int) else (-math.inf, math.inf)
        least, most = _RANGES.get(option, anything)
        if not math.isfinite(value):
            yield option, f"must be finite, but it is {value}"
        elif value < least:
            yield option, f"must be {_words(least)} or more, but it is {shown(value)}"
        elif value > most:
            yield option, f"must be {_words(most)} or less, but it is {shown(value)}"


def _words(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
