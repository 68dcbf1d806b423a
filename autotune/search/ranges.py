"""The edge rule: where the best value lies at an edge of its range, the range is widened within its limits.

It leaves ranges alone that a person has set.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.samplers import BaseSampler

from autotune.core.attributes import StudyAttributes
from autotune.core.records import TrialRecord
from autotune.core.text import short_number
from autotune.search.dimension import Dimension, Number
from autotune.search.searched import present_space, whole_space
from autotune.search.space import SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

EDGE_FRAC = 0.1
"""Share of a range, on its own scale, that counts as its edge."""
MIN_FINISHED = 10
"""Trials of the search that must have finished: the best of a few lies at an edge by chance."""
CHANGING_RANGE_SAMPLERS = ("tpe", "gp", "random")
"""Samplers that cope with ranges that change."""
# Share of itself by which a range grows at an edge: the best value then lies a fourth to a third of the way in.
_WIDEN_FRAC = 1 / 3


def widened_ranges(
    space: SearchSpace, trials: Sequence[TrialRecord], kept: Collection[str] = ()
) -> dict[str, tuple[Number, Number]]:
    """Return the ranges that are to be widened, low and high by dotted path.

    Args:
        space: What is searched at present.
        trials: The search.
        kept: Settings whose ranges stay as they are.
    """
    movable = [path for path in space if path not in kept and space[path].limits is not None]
    if not movable:
        return {}
    finished = [trial for trial in trials if trial.loss is not None]
    if len(finished) < MIN_FINISHED:
        return {}

    best = min(finished, key=lambda trial: trial.loss or 0.0)
    ranges = {path: _widened_range(space[path], best.params.get(path)) for path in movable}
    return {path: ends for path, ends in ranges.items() if ends is not None}


def _widened_range(dimension: Dimension, value: Any) -> tuple[Number, Number] | None:
    """Return the new ends of a dimension whose best value is given, or None if it stays."""
    if dimension.limits is None or value is None or dimension.low == dimension.high:
        return None

    assert dimension.low is not None and dimension.high is not None
    low = dimension.low
    high = dimension.high
    lowest, highest = dimension.limits
    # A third of a few whole numbers may round to nothing.
    min_growth = 1 if dimension.is_integer else 0

    position = dimension.position(value)
    if position <= EDGE_FRAC:
        low = max(lowest, min(dimension.at(-_WIDEN_FRAC), low - min_growth))
    elif position >= 1 - EDGE_FRAC:
        high = min(highest, max(dimension.at(1 + _WIDEN_FRAC), high + min_growth))

    if (low, high) == (dimension.low, dimension.high):
        return None
    return low, high


def describe_widening(space: SearchSpace, ranges: Mapping[str, Sequence[Number]]) -> str:
    """Return a sentence that says what is widened.

    Args:
        space: What was searched until now.
        ranges: What is searched from now on, by dotted path.
    """
    changes = []
    for path, (low, high) in ranges.items():
        changes.append(f"{path} was {space[path].describe()} and is now {short_number(low)} to {short_number(high)}")

    return f"the best trial lies at the edge of a range, so the range is widened: {'; '.join(changes)}"


class CurrentRanges(BaseSampler):
    """Asks another sampler about all settings together, in the ranges they have at present.

    Optuna does not propose a setting together with the others once its range has changed.

    Args:
        inner: The sampler to ask.
        space: What the study file searches, without conditions.
    """

    def __init__(self, inner: BaseSampler, space: SearchSpace) -> None:
        self._inner = inner
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every setting with its present range, or all its choices; see optuna.samplers.BaseSampler."""
        attributes = StudyAttributes(study).at_present()
        space = present_space(self._space, attributes)
        whole = whole_space(self._space, attributes)

        distributions = {}
        for path in sorted(space):
            dimension = space[path]
            if not dimension.distribution().single():
                distributions[path] = (dimension if dimension.choices is None else whole[path]).distribution()
        return distributions

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Any:
        """See optuna.samplers.BaseSampler."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """See optuna.samplers.BaseSampler."""
        return self._inner.sample_independent(study, trial, name, distribution)

    def reseed_rng(self) -> None:
        """See optuna.samplers.BaseSampler."""
        self._inner.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See optuna.samplers.BaseSampler."""
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        """See optuna.samplers.BaseSampler."""
        self._inner.after_trial(study, trial, state, values)
