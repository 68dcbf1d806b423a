"""The audit of early stopping: what an early loss foretold of the final one, and what stopping saved."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import pandas as pd

from autotune.core.metric import Metric
from autotune.core.records import EvalPoint, TrialRecord, TrialStatus
from autotune.core.statistics import CONFIDENCE
from autotune.search.pruning import WarmUp, curves_unbiased_by_pruning, measure_warm_up
from autotune.store.study_record import StudyRecord
from reports.formats import finite
from reports.tables.curves import at_equal_shares

_MIN_AUDIT_TRIALS = 4

# Where no trial was pruned: a share of the budget at which early losses mostly tell something.
FIRST_RUNG_FRAC = 0.3


@dataclass(frozen=True)
class PruningAudit:
    """How well an early loss foretold the final one, and what stopping early saved.

    Args:
        rung: Where trials are first judged: training tokens, or trained seeds where trials have several.
        whole: A whole trial's, likewise.
        unit: "tokens" or "seeds".
        table: Finished trials: number, rung_loss and final_loss, nats per token.
        spearman: Rank correlation of the two, -1 to 1; None with fewer than `_MIN_AUDIT_TRIALS` trials.
        at_risk: Of the best quarter of finished trials, how many were worse than the median at the rung.
        best_quarter: How many trials that quarter has.
        pruned: Trials stopped early.
        saved_s: Seconds that they would have gone on, at their own speed.
        audited: Trials that the pruner would have stopped and that ran to their end as a check.
        audited_good: How many of those ended in the best quarter.
        warm_up: How early trials could be judged, by those that no pruner chose; None if they are too few.
    """

    rung: int
    whole: int
    unit: str
    table: pd.DataFrame
    spearman: float | None
    at_risk: int
    best_quarter: int
    pruned: int
    saved_s: float
    audited: int
    audited_good: int
    warm_up: WarmUp | None

    def rung_words(self, metric: Metric) -> str:
        """Return where trials are first judged: "500 tokens" or "2 of 5 seeds"."""
        if self.unit == "seeds":
            return f"{self.rung} of {self.whole} seeds"
        return metric.budget(self.rung)

    @property
    def lost(self) -> tuple[float, float, float] | None:
        """Good trials among those stopped: estimate and 95 % interval, by the share among the audited ones.

        Source: Clopper and Pearson (1934), the exact interval of a share. None without an audit.
        """
        if not self.audited:
            return None

        # Imported here, since all of scipy.stats takes more than half a second.
        from scipy.stats import binomtest

        shares = binomtest(self.audited_good, self.audited).proportion_ci(CONFIDENCE)

        return (
            self.pruned * self.audited_good / self.audited,
            self.pruned * float(shares.low),
            self.pruned * float(shares.high),
        )


def pruning_audit(record: StudyRecord) -> PruningAudit | None:
    """Return the audit, or None while no finished trial has an early evaluation.

    Args:
        record: The study.
    """
    if record.spec.budget.seeds > 1:
        record, whole, unit = _at_seeds(record), record.spec.budget.seeds, "seeds"
    else:
        record, whole, unit = at_equal_shares(record), record.spec.budget.tokens, "tokens"

    rung = _first_rung(record, whole)
    if rung is None:
        return None

    table = _early_and_final(record, rung)
    if table.empty:
        return None

    quarter = table.nsmallest(max(1, len(table) // 4), "final_loss")
    pruned, saved_s = _saved(record, whole)

    finished = {trial.number: trial for trial in record.trials if finite(trial.loss) is not None}
    by_loss = sorted(finished, key=lambda number: finished[number].loss or 0.0)
    best = by_loss[: max(1, len(finished) // 4)]

    curves = {number: _curve(trial) for number, trial in finished.items()}
    audited = [number for number, trial in finished.items() if trial.audited_at is not None]
    stopped = [trial.number for trial in record.trials if trial.stopped_at is not None]

    return PruningAudit(
        rung,
        whole,
        unit,
        table,
        _spearman(table),
        at_risk=int((quarter["rung_loss"] > table["rung_loss"].median()).sum()),
        best_quarter=len(quarter),
        pruned=pruned,
        saved_s=saved_s,
        audited=len(audited),
        audited_good=len(set(audited) & set(best)),
        warm_up=measure_warm_up(curves_unbiased_by_pruning(curves, audited, stopped)),
    )


def _early_and_final(record: StudyRecord, rung: int) -> pd.DataFrame:
    """Return the loss at the rung and the final loss of every finished trial that was evaluated there."""
    rows = []
    for trial in record.trials:
        final = finite(trial.loss)
        if final is None or trial.result is None:
            continue

        # The last evaluation is the final one, so that it foretells nothing.
        before_last = trial.result.points[:-1]
        early = next((finite(point.val_loss) for point in before_last if point.tokens_seen == rung), None)
        if early is not None:
            rows.append((trial.number, early, final))

    return pd.DataFrame(rows, columns=["number", "rung_loss", "final_loss"])


def _curve(trial: TrialRecord) -> dict[int, float]:
    if trial.result is None:
        return {}
    return {point.tokens_seen: point.val_loss for point in trial.result.points}


def _at_seeds(record: StudyRecord) -> StudyRecord:
    """Return the study with each trial's curve over its seeds: the mean of their final losses so far.

    That is what trials of several seeds are judged by; within a seed none is stopped.
    """
    return replace(record, trials=tuple(_trial_at_seeds(trial) for trial in record.trials))


def _trial_at_seeds(trial: TrialRecord) -> TrialRecord:
    if trial.result is None:
        return trial

    losses = trial.seed_losses
    points = []
    for num_seeds in range(1, len(losses) + 1):
        points.append(EvalPoint(num_seeds, statistics.fmean(losses[:num_seeds])))

    return replace(trial, result=replace(trial.result, points=tuple(points)))


def _first_rung(record: StudyRecord, whole: int) -> int | None:
    """Return where the first trial was pruned, or the first evaluation at which losses mostly tell something."""
    stopped = []
    for trial in record.trials:
        if trial.status is TrialStatus.PRUNED and trial.result and trial.result.points:
            stopped.append(trial.result.points[-1].tokens_seen)
    if stopped:
        return min(stopped)

    judged: list[int] = []
    for trial in record.trials:
        if trial.loss is None or not trial.result:
            continue
        for point in trial.result.points[:-1]:
            if point.tokens_seen >= FIRST_RUNG_FRAC * whole:
                judged.append(point.tokens_seen)

    return min(judged, default=None)


def _spearman(table: pd.DataFrame) -> float | None:
    if len(table) < _MIN_AUDIT_TRIALS or table["rung_loss"].nunique() < 2 or table["final_loss"].nunique() < 2:
        return None

    from scipy.stats import spearmanr

    return float(spearmanr(table["rung_loss"], table["final_loss"]).statistic)


def _saved(record: StudyRecord, whole: int) -> tuple[int, float]:
    """Return how many trials were pruned, and the seconds that they would have gone on."""
    pruned = 0
    saved_s = 0.0
    for trial in record.trials:
        if trial.status is not TrialStatus.PRUNED or trial.result is None:
            continue

        pruned += 1
        if not trial.result.points:
            continue

        seen = trial.result.points[-1].tokens_seen
        if seen > 0:
            saved_s += trial.result.seconds * max(0.0, whole / seen - 1)

    return pruned, saved_s
