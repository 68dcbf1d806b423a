"""Which change gave what: the winner without each of its changes, and a path from the default, on fresh seeds.

Each change from the default to the winner is taken back alone (leave-one-out), and the changes are made one after the
other, those whose absence costs most first (the path of Fawcett & Hoos 2016, ordered by what was measured). All arms
are trained on the same seeds. The noise is therefore what is left when each arm and each seed has its own mean (a
complete block design, Fisher 1935); pooled over the arms it is known well from few seeds.

A change whose taking back does no measurable harm and whose making brings no measurable gain is a tie. Ties go back to
their defaults, unless the loss without all of them is higher by more than chance or by as much as is worth having: a
few that are too small to be measured alone may be worth it together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.records import TrialRecord
from autotune.core.statistics import CONFIDENCE, student_quantile
from autotune.core.study_results import AttributedChange, Attribution
from autotune.finals.verdict import ATTRIBUTE, PROVE, FinalRun
from autotune.search.space import SearchSpace

Settings = Mapping[str, Any]
Arm = frozenset[tuple[str, Any]]
Losses = Mapping[Arm, Mapping[int, float]]
Interval = tuple[float, float, float]
"""A difference in loss with the ends of its interval, nats per token."""


class Attributing:
    """Which arms are to be trained next, by what has been trained, and which change gave what when all of them are.

    Args:
        space: The study's search space.
        base: Its nested base config.
        baseline: The baseline's search trial.
        winner: The winner's search trial.
        seeds: Proving seeds on which both were trained; the arms are trained on the same.
        min_gain: Smallest gain worth having, nats per token; infinite if only what is measurable counts.
        metric: What the trainer reports.
    """

    def __init__(
        self,
        space: SearchSpace,
        base: Mapping[str, Any],
        baseline: TrialRecord,
        winner: TrialRecord,
        seeds: Sequence[int],
        min_gain: float = math.inf,
        metric: Metric = TEXT_LOSS,
    ) -> None:
        self._space = space
        self._base = base
        self._baseline = baseline
        self._winner = winner
        self._seeds = tuple(seeds)
        self._min_gain = min_gain
        self._metric = metric
        self._defaults = space.defaults(base)
        self.changed = [path for path, value in winner.params.items() if value != self._defaults[path]]

    def missing(self, runs: Sequence[TrialRecord]) -> list[FinalRun]:
        """Return the trainings that are to be done next; none when all is known.

        Args:
            runs: Re-runs so far.
        """
        losses = self._losses(runs)
        for arms in self._arms(losses):
            wanted = []
            for seed in self._seeds:
                untrained = [arm for arm in arms if seed not in losses.get(_key(arm), {})]
                wanted += [FinalRun(self._winner.number, arm, seed, ATTRIBUTE) for arm in untrained]
            if wanted:
                return wanted

        return []

    def _arms(self, losses: Losses) -> Iterator[list[dict[str, Any]]]:
        """Yield the kinds of arms, one after the other; each is known once those before it have been trained."""
        yield self._without_each()
        yield self._path(losses)
        yield [self._reduced(losses)]

    def result(self, runs: Sequence[TrialRecord]) -> Attribution:
        """Return the attribution, once nothing is missing."""
        losses = self._losses(runs)
        blocks, changes = self._changes(losses)
        ties = [change.path for change in changes if change.is_tie]
        kept = self._reduced(losses)
        lost = blocks.difference(_key(kept), _key(self._winner.params))

        if not ties:
            note = "all changes helped"
        elif len(ties) == len(changes) or self._matters(lost):
            kept = dict(self._winner.params)
            note = f"no gain could be measured for {', '.join(ties)} alone, but together they count and are kept"
            if lost is not None:
                less = f"{self._metric.difference(lost[0])} {self._metric.worse}"
                note += f" (without them the {self._metric.name} is {less})"
        else:
            note = f"no gain could be measured for {', '.join(ties)}: left at default"

        return Attribution(
            winner=self._winner.number,
            changes=tuple(changes),
            seeds=self._seeds,
            params=kept,
            loss=blocks.mean(_key(kept)),
            winner_loss=blocks.mean(_key(self._winner.params)),
            baseline_loss=blocks.mean(_key(self._baseline.params)),
            note=note,
            gain=Blocks(losses, self._seeds, 1).difference(_key(self._baseline.params), _key(kept)),
        )

    def _matters(self, lost: Interval | None) -> bool:
        """Return whether too much is lost without the ties: measurably, or as much as is worth having."""
        return lost is None or lost[1] > 0 or lost[0] >= self._min_gain

    def _losses(self, runs: Sequence[TrialRecord]) -> dict[Arm, dict[int, float]]:
        """Return the loss of each arm on each seed; infinite where it failed for good."""
        losses: dict[Arm, dict[int, float]] = {}
        for run in runs:
            if run.seed not in self._seeds or not self._counts(run):
                continue
            if run.loss is not None or run.status.is_failure:
                by_seed = losses.setdefault(_key(run.params), {})
                by_seed[run.seed] = np.inf if run.loss is None else run.loss

        return losses

    def _counts(self, run: TrialRecord) -> bool:
        """Return whether a run belongs to the attribution, or to the proof whose runs it uses, too."""
        if run.stage == ATTRIBUTE:
            return run.arm == self._winner.number

        return run.stage == PROVE and run.arm in (self._baseline.number, self._winner.number)

    def _with(self, changes: Sequence[str]) -> dict[str, Any]:
        """Return the default with some of the winner's changes; a setting whose condition fails is left out."""
        changed = {path: self._winner.params[path] for path in changes}
        values = {**self._defaults, **changed}

        return self._space.active(values, self._base)

    def _without_each(self) -> list[dict[str, Any]]:
        return [self._with_all_but(path) for path in self.changed]

    def _with_all_but(self, left_out: str) -> dict[str, Any]:
        return self._with([path for path in self.changed if path != left_out])

    def _order(self, losses: Losses) -> list[str]:
        """Return the changes, those whose absence costs most first, each after the changes that it depends on."""
        loss_without = {}
        for path in self.changed:
            by_seed = losses[_key(self._with_all_but(path))]
            loss_without[path] = float(np.mean([by_seed[seed] for seed in self._seeds]))

        order: list[str] = []

        def add(path: str) -> None:
            for condition in self._space[path].when:
                if condition in loss_without:
                    add(condition)
            if path not in order:
                order.append(path)

        for path in sorted(self.changed, key=lambda name: -loss_without[name]):
            add(path)
        return order

    def _path(self, losses: Losses) -> list[dict[str, Any]]:
        order = self._order(losses)
        return [self._with(order[:count]) for count in range(len(order) + 1)]

    def _reduced(self, losses: Losses) -> dict[str, Any]:
        """Return the winner's settings without the changes that are ties."""
        _, changes = self._changes(losses)
        return self._with([change.path for change in changes if not change.is_tie])

    def _changes(self, losses: Losses) -> tuple[Blocks, list[AttributedChange]]:
        blocks = Blocks(losses, self._seeds, len(self.changed))
        neighbours = itertools.pairwise(self._path(losses))

        changes = []
        for (before, after), name in zip(neighbours, self._order(losses), strict=True):
            harm = blocks.difference(_key(self._with_all_but(name)), _key(self._winner.params))
            gain = blocks.difference(_key(before), _key(after))
            is_tie = harm is not None and harm[1] <= 0 and (gain is None or gain[1] <= 0)
            changes.append(AttributedChange(name, self._defaults[name], self._winner.params[name], gain, harm, is_tie))

        return blocks, changes


class Blocks:
    """Losses of arms on the same seeds, and the intervals of their differences.

    Args:
        losses: Of each arm on each seed, nats per token; infinite where it failed.
        seeds: The seeds.
        changes: Changes that are judged: their intervals hold together with `CONFIDENCE` (Bonferroni 1936).
    """

    def __init__(self, losses: Losses, seeds: Sequence[int], changes: int) -> None:
        self._rows = {arm: np.array([by_seed.get(seed, np.inf) for seed in seeds]) for arm, by_seed in losses.items()}
        sound = np.array([row for row in self._rows.values() if np.isfinite(row).all()])

        # What is left of each loss when its arm and its seed have had their mean.
        rest = sound - sound.mean(axis=1, keepdims=True) - sound.mean(axis=0, keepdims=True) + sound.mean()
        freedom = (len(sound) - 1) * (len(seeds) - 1)
        sigma = float(np.sqrt((rest**2).sum() / freedom))

        quantile = student_quantile(1 - (1 - CONFIDENCE) / (2 * max(1, changes)), freedom)
        self._half = quantile * sigma * (2 / len(seeds)) ** 0.5

    def mean(self, arm: Arm) -> float:
        """Return an arm's mean loss."""
        return float(self._rows[arm].mean())

    def difference(self, arm: Arm, other: Arm) -> Interval | None:
        """Return how much higher an arm's loss is than another's, or None if one of them failed."""
        if arm not in self._rows or other not in self._rows:
            return None

        difference = self.mean(arm) - self.mean(other)
        if not np.isfinite(difference):
            return None

        return difference, difference - self._half, difference + self._half


def _key(params: Settings) -> Arm:
    return frozenset(params.items())
