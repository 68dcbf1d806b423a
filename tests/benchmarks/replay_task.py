"""What a search is given: a table with its default, a seed, a device time, and how proposals become rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from replay_pool import PoolSampler, Settings

from autotune.core.config_paths import with_paths
from autotune.replay.sources import Rows
from autotune.replay.table import Table

Way = Literal["nearest", "pool"]
"""A proposal becomes the nearest row not yet taken, or proposals are rows that are left."""
Default = Literal["middle", "random", "good", "poor", "wrong"]
"""The table's own default, near the middle of most spaces, or a row drawn at random: of all, or of those whose final
losses have ranks in the shares of `RANKS`."""
RANKS = {"random": (0.0, 1.0), "good": (0.02, 0.1), "poor": (0.4, 0.6), "wrong": (0.9, 1.0)}
"""With the very best as a good default there would be nothing left to find."""


@dataclass(frozen=True)
class Task:
    """One search to simulate.

    Args:
        table: The table; its base config is the default, which is trained first.
        seed: Of all that the search draws.
        budget_s: Device time after which nothing begins.
        way: How proposals become rows.
    """

    table: Table
    seed: int
    budget_s: float
    way: Way = "nearest"
    rows: Rows = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", Rows(self.table))

    @property
    def baseline(self) -> Settings:
        """The default's settings."""
        return self.table.spec.space.baseline(self.table.spec.base)

    @property
    def num_taken(self) -> int:
        """The number of rows that were begun."""
        return len(self.table.rows) - len(self.rows.left)

    def asking(self, sampler: BaseSampler) -> BaseSampler:
        """Return a sampler of Optuna's interface that proposes in this task's way.

        Args:
            sampler: A new sampler.

        Raises:
            UserError: If it cannot.
        """
        if self.way == "nearest":
            return sampler
        return PoolSampler(sampler, self.rows, self.table.spec.space, self.seed)

    def random_settings(self) -> Iterator[dict[str, Any]]:
        """Yield settings drawn at random, without end; in the pool way from the rows that are left at that time."""
        spec = self.table.spec
        study = optuna.create_study(sampler=self.asking(optuna.samplers.RandomSampler(seed=self.seed)))
        while True:
            trial = study.ask()
            yield dict(spec.space.suggest(trial, spec.base))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)


def with_default(table: Table, default: Default, seed: int) -> Table:
    """Return a table with its rows in an order drawn by a seed, and with a default.

    The order decides which of several rows at the same distance a proposal becomes. A default that is drawn is a row
    that was trained to its end, since no study is begun with a default that cannot be trained.

    Args:
        table: At least one of its rows finished.
        default: Which.
        seed: The same rows are drawn for every method.
    """
    rng = np.random.default_rng(seed)
    rows = tuple(table.rows[place] for place in rng.permutation(len(table.rows)))
    spec = table.spec
    if default != "middle":
        finished = table.finished()
        first, last = (round(share * (len(finished) - 1)) for share in RANKS[default])
        drawn = random.Random(seed).choice(finished[first : last + 1])
        spec = spec.model_copy(update={"base": with_paths(spec.base, drawn.params)})
    return replace(table, spec=spec, rows=rows)
