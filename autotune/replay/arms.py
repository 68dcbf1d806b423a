"""Samplers and pruners compared by the device time that they take to good settings, over several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.statistics import CONFIDENCE, INTERVAL
from autotune.replay.simulation import Search, simulate
from autotune.replay.sources import Source
from autotune.replay.surrogate import Surrogate
from autotune.replay.table import Table
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

# Whole trials that a search's device time is worth, unless told otherwise.
WHOLE_TRIALS = 60
# Bootstrap samples of an interval.
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Arm:
    """A sampler and a pruner with the searches they were simulated in.

    Args:
        name: For a person.
        searches: One for each seed.
        target: Final loss at or below which good settings count as reached.
        metric: What the trainer reports.
    """

    name: str
    searches: tuple[Search, ...]
    target: float
    metric: Metric = TEXT_LOSS

    @property
    def seconds(self) -> list[float]:
        """Device time to the target in each search, in order; infinite where it was not reached."""
        return sorted(search.seconds_to(self.target) for search in self.searches)

    @property
    def reached_frac(self) -> float:
        """Share of the searches that reached the target."""
        return sum(map(math.isfinite, self.seconds)) / len(self.searches)

    @property
    def median_s(self) -> float:
        """Median device time to the target; infinite if half of the searches did not reach it."""
        return statistics.median_high(self.seconds)

    def interval_s(self) -> tuple[float, float]:
        """Return the 95 % bootstrap interval of the median (Efron 1979)."""
        rng = np.random.default_rng(0)
        samples = np.sort(rng.choice(np.array(self.seconds), (_RESAMPLES, len(self.searches))), axis=1)
        medians = np.sort(samples[:, len(self.searches) // 2])
        low_place = int((1 - CONFIDENCE) / 2 * _RESAMPLES)
        high_place = int((1 + CONFIDENCE) / 2 * _RESAMPLES)
        return float(medians[low_place]), float(medians[high_place])


def run_arm(
    table: Table,
    new_source: Callable[[], Source],
    sampler: SamplerSpec,
    pruner: PrunerSpec,
    *,
    repeats: int,
    budget_s: float,
    within_frac: float,
) -> Arm:
    """Simulate a sampler and a pruner with several seeds.

    Args:
        table: The table.
        new_source: Gives each search what its trials measure.
        sampler: As in a study file.
        pruner: As in a study file.
        repeats: Searches, >= 1.
        budget_s: Device time of each.
        within_frac: A trial is good if it is at most this share worse than the source's best.
    """
    searches = tuple(simulate(table, new_source(), sampler, pruner, seed, budget_s) for seed in range(repeats))
    best = new_source().best
    target = best + within_frac * abs(best)
    return Arm(arm_name(sampler, pruner), searches, target, table.metric)


def arm_name(sampler: SamplerSpec, pruner: PrunerSpec) -> str:
    """Return a sampler and a pruner in words, with the options that were given.

    Args:
        sampler: As in a study file.
        pruner: As in a study file.
    """
    pruner_options = pruner.model_dump(exclude_unset=True, exclude={"name"})
    return f"{_with_options(sampler.name, sampler.options)} + {_with_options(pruner.name, pruner_options)}"


def _with_options(name: str, options: Mapping[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def trial_s(table: Table) -> float:
    """Return the median device time of a whole trial.

    Args:
        table: At least one of its rows finished.
    """
    return statistics.median(row.seconds(table.tokens[-1], len(table.tokens)) for row in table.finished())


def describe_table(table: Table, surrogate: Surrogate | None, budget_s: float) -> list[str]:
    """Return what is replayed, in lines for a person.

    Args:
        table: At least one of its rows finished.
        surrogate: The model that is replayed instead of exact rows, or None.
        budget_s: Device time of a search.
    """
    finished, metric = table.finished(), table.metric
    best = finished[0].losses[-1]
    median = finished[len(finished) // 2].losses[-1]
    lines = [
        f"{table.spec.name}: {len(table.rows)} rows, {len(finished)} finished, {len(table.tokens)} evaluations each; "
        f"best {metric.words(best)}, median {metric.number(median)}; "
        f"{budget_s / 60:.0f} min of device time per search"
    ]

    if surrogate is not None:
        lines.append(
            f"interpolated: the final {metric.name} predicted for rows left out is "
            f"{metric.difference(surrogate.error)} off "
            f"(root mean square), rank correlation {surrogate.rank_correlation:.2f}"
        )

    return lines


def describe(arm: Arm) -> str:
    """Return an arm's figures in a line for a person.

    Args:
        arm: The arm.
    """
    low_s, high_s = arm.interval_s()
    return (
        f"{arm.name}: good settings found in {arm.reached_frac:.0%} of {len(arm.searches)} searches, "
        f"median {_minutes(arm.median_s)} ({INTERVAL} {_minutes(low_s)} to {_minutes(high_s)})"
    )


def _minutes(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "never"
    return f"{seconds / 60:.1f} min"


def to_json(arm: Arm) -> dict[str, Any]:
    """Return an arm's figures, JSON-able; a target that was not reached is null.

    Args:
        arm: The arm.
    """
    return {
        "name": arm.name,
        "target": arm.metric.value(arm.target),
        "searches": len(arm.searches),
        "reached_frac": arm.reached_frac,
        "median_s": _finite_or_none(arm.median_s),
        "interval_s": [_finite_or_none(value) for value in arm.interval_s()],
        "seconds": [_finite_or_none(value) for value in arm.seconds],
        "best": [_finite_or_none(arm.metric.value(search.best)) for search in arm.searches],
    }


def _finite_or_none(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return value
