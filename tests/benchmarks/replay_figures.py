"""The arithmetic of a comparison over tables: times in whole trainings, regrets, ratios and their intervals.

The time of a method on a table is the geometric mean over its searches: ratios of two methods are then the same
whichever is divided by which, every search counts, also where less than half of them found anything (a median would be
the budget there, whatever the others did), and one slow search does not outweigh the rest.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autotune.core.statistics import CONFIDENCE
from autotune.replay.simulation import Search

WITHIN_FRACS = (0.005, 0.01, 0.05)
"""How far above a table's best loss still counts as found, as shares of it."""
REGRETS_AFTER = (5, 10, 20, 40)
"""Whole trainings after which the distance from the table's best is told."""
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Outcome:
    """One simulated search.

    Args:
        search: What it found, and when.
        thinking_s: Wall clock for each training that it began: sampler, pruner and the replay's own book-keeping.
    """

    search: Search
    thinking_s: float


@dataclass(frozen=True)
class Cell:
    """The searches of one method on one table.

    Args:
        best: The table's best loss, nats per token.
        training_s: Device time of a whole training.
        budget: Device time of a search, in whole trainings.
        outcomes: One for each seed.
    """

    best: float
    training_s: float
    budget: float
    outcomes: tuple[Outcome, ...]

    def times(self, within_frac: float) -> list[float]:
        """Return the time of each search to a loss, in whole trainings; the budget for one that never got there.

        Args:
            within_frac: How far above the best loss it is, as a share of it.
        """
        return [min(seconds / self.training_s, self.budget) for seconds in self._seconds(within_frac)]

    def found_frac(self, within_frac: float) -> float:
        """Return the share of the searches that got to a loss.

        Args:
            within_frac: How far above the best loss it is, as a share of it.
        """
        return sum(map(math.isfinite, self._seconds(within_frac))) / len(self.outcomes)

    def regret(self, trainings: float) -> float:
        """Return the median distance from the best loss after so much device time, as a share of the best loss.

        Args:
            trainings: Device time, in whole trainings.

        Returns:
            Infinite if half of the searches had finished nothing by then; nan beyond the budget.
        """
        if trainings > self.budget:
            return math.nan
        reached = [outcome.search.best_by(trainings * self.training_s) for outcome in self.outcomes]
        return statistics.median(reached) / self.best - 1

    @property
    def thinking_s(self) -> float:
        """Median wall clock for each training that a search began."""
        return statistics.median(outcome.thinking_s for outcome in self.outcomes)

    def _seconds(self, within_frac: float) -> list[float]:
        target = self.best * (1 + within_frac)
        return [outcome.search.seconds_to(target) for outcome in self.outcomes]


@dataclass(frozen=True)
class Comparison:
    """A method against the reference over all tables; 2 is twice as fast.

    Args:
        ratio: Geometric mean over tables of the reference's time divided by the method's.
        interval: Its 95 % bootstrap interval over tables.
        worst_table: Where the ratio is lowest.
        worst_ratio: The ratio there.
        slower_than_random: Tables on which random search without a pruner takes less time.
    """

    ratio: float
    interval: tuple[float, float]
    worst_table: str
    worst_ratio: float
    slower_than_random: int


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive values."""
    return math.exp(statistics.fmean(map(math.log, values)))


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a geometric mean (Efron 1979).

    Args:
        values: Positive; one for each table.
        seed: The same seed gives the same interval.
    """
    drawn = np.random.default_rng(seed).choice(np.log(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return math.exp(low), math.exp(high)


def compare(times: Mapping[str, float], reference: Mapping[str, float], at_random: Mapping[str, float]) -> Comparison:
    """Compare a method with the reference and with random search.

    Args:
        times: Of the method, by table.
        reference: Of the reference, by table.
        at_random: Of random search without a pruner, by table.
    """
    ratios = {table: reference[table] / time for table, time in times.items()}
    worst = min(ratios, key=lambda table: ratios[table])

    return Comparison(
        geometric_mean(ratios.values()),
        bootstrap_interval(list(ratios.values())),
        worst,
        ratios[worst],
        sum(time > at_random[table] for table, time in times.items()),
    )


def chosen_elsewhere(times: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Return for each table the variant with the lowest geometric mean of times on all other tables.

    Args:
        times: By variant and table; two tables or more. Of variants that are equal the first is chosen.
    """
    tables = list(next(iter(times.values())))
    chosen = {}
    for left_out in tables:
        elsewhere = {
            variant: geometric_mean(own[table] for table in tables if table != left_out)
            for variant, own in times.items()
        }
        chosen[left_out] = min(elsewhere, key=lambda variant: elsewhere[variant])
    return chosen
