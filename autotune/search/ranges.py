"""The edge rule: where the best value lies at an edge of its range, the range is widened within its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.samplers import BaseSampler

from autotune.core.attributes import StudyAttributes
from autotune.core.records import TrialRecord
from autotune.search.space import Dimension, Number, SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

EDGE_FRAC = 0.1
"""Share of a range, on its own scale, that counts as its edge."""
WIDEN_FRAC = 1 / 3
"""What a range grows by at an edge: the best value then lies a fourth to a third of the way in."""
MIN_FINISHED = 10
"""Trials of the search that must have finished: the best of a few lies at an edge by chance."""
SAMPLERS = ("tpe", "gp", "random")
"""Samplers that cope with ranges that change."""


def widened(space: SearchSpace, trials: Sequence[TrialRecord]) -> dict[str, tuple[Number, Number]]:
    """Returns the ranges that are to be widened, by dotted path.

    Args:
        space: What is searched at present.
        trials: The search.
    """
    finished = [trial for trial in trials if trial.loss is not None]
    if len(finished) < MIN_FINISHED:
        return {}
    best = min(finished, key=lambda trial: trial.loss or 0.0)
    found = {path: _widened(space[path], best.params.get(path)) for path in space}
    return {path: ends for path, ends in found.items() if ends is not None}


def _widened(dimension: Dimension, value: Any) -> tuple[Number, Number] | None:
    if dimension.limits is None or value is None or dimension.low == dimension.high:
        return None
    assert dimension.low is not None and dimension.high is not None
    position = dimension.position(value)
    low, high = dimension.low, dimension.high
    if position <= EDGE_FRAC:
        low = max(dimension.limits[0], min(dimension.at(-WIDEN_FRAC), low - 1 if dimension.is_integer else low))
    elif position >= 1 - EDGE_FRAC:
        high = min(dimension.limits[1], max(dimension.at(1 + WIDEN_FRAC), high + 1 if dimension.is_integer else high))
    return (low, high) if (low, high) != (dimension.low, dimension.high) else None


class CurrentRanges(BaseSampler):
    """Asks another sampler about all settings together, in the ranges they have at present.

    Optuna takes a setting whose range has changed for one that cannot be proposed together with the others.

    Args:
        inner: The sampler to ask.
        space: What the study file searches, without conditions.
    """

    def __init__(self, inner: BaseSampler, space: SearchSpace) -> None:
        self._inner = inner
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns every setting with its present range; see optuna.samplers.BaseSampler."""
        space = self._space.with_ranges(StudyAttributes(study).ranges)
        distributions = {path: space[path].distribution() for path in sorted(space)}
        return {path: distribution for path, distribution in distributions.items() if not distribution.single()}

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


def describe(space: SearchSpace, ranges: Mapping[str, Sequence[Number]]) -> str:
    """Returns in words what is widened.

    Args:
        space: What was searched until now.
        ranges: What is searched from now on, by dotted path.
    """
    words = [f"{path} from {space[path].describe()} to {low:.3g} to {high:.3g}" for path, (low, high) in ranges.items()]
    return f"the best trial lies at the edge of its range, so it is widened: {'; '.join(words)}"
