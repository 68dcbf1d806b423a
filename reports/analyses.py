"""What the trials say together: importance, the pruning audit, edges of the ranges, quality against speed."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
import pandas as pd

from autotune.core.records import EvalPoint, TrialRecord, TrialStatus
from autotune.core.statistics import CONFIDENCE
from autotune.promotion.selection import best_settings
from autotune.search.dimension import Dimension
from autotune.search.pruning import WarmUp, curves_unbiased_by_pruning, measure_warm_up
from autotune.store.study_store import StudyRecord
from reports import tables
from reports.formats import finite

# With fewer finished trials the ranking of settings is mostly chance.
_MIN_IMPORTANCE_TRIALS = 15
# PED-ANOVA compares the best trials with all of them; fewer than this many "best" would be noise.
_MIN_TOP_TRIALS = 5
_MIN_AUDIT_TRIALS = 4
EDGE_FRAC = 0.1
# Where no trial was pruned: the share of the budget at which the default pruner starts to judge.
FIRST_RUNG_FRAC = 0.3


class TooFewTrialsError(Exception):
    """An analysis that these trials cannot carry; the message is for the reader."""


def importance(record: StudyRecord) -> pd.DataFrame:
    """Return how much each setting tells the best trials from the rest.

    Args:
        record: The study.

    Returns:
        Columns path and importance_frac (they add up to 1), largest first.
        Source: PED-ANOVA, Watanabe et al. 2023, as optuna.importance has it.

    Raises:
        TooFewTrialsError: If the trials cannot carry it.
    """
    study = _rebuilt(record)
    done = len(study.trials)
    if done < _MIN_IMPORTANCE_TRIALS:
        raise TooFewTrialsError(f"it needs {_MIN_IMPORTANCE_TRIALS} finished trials, and there are {done}")
    if len({trial.value for trial in study.trials}) < 2:
        raise TooFewTrialsError("every trial has the same loss")

    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, _MIN_TOP_TRIALS / done))
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)

    rows = [(path, share) for path, share in shares.items() if math.isfinite(share)]
    if not any(share for _, share in rows):
        raise TooFewTrialsError("no setting was varied in every trial")

    return pd.DataFrame(rows, columns=["path", "importance_frac"])


def _rebuilt(record: StudyRecord) -> optuna.Study:
    """Rebuild the study in memory from its finished trials, with the distributions of its space."""
    space = record.spec.space
    with _quiet():
        study = optuna.create_study(direction="minimize")

    for trial in record.trials:
        loss = finite(trial.loss)
        if loss is None:
            continue

        searched = {path: trial.params[path] for path in space if path in trial.params}
        # Settings that were set by hand can lie outside the space.
        if not all(space[path].contains(value) for path, value in searched.items()):
            continue

        fixed = optuna.trial.FixedTrial(searched)
        # ValueError: a setting is missing, which settings that were set by hand can cause as well.
        with contextlib.suppress(ValueError):
            space.suggest(fixed, record.spec.base)  # type: ignore[arg-type]
            rebuilt = optuna.trial.create_trial(params=fixed.params, distributions=fixed.distributions, value=loss)
            study.add_trial(rebuilt)

    return study


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


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

    @property
    def rung_words(self) -> str:
        """Where trials are first judged: "500 tokens" or "2 of 5 seeds"."""
        if self.unit == "seeds":
            return f"{self.rung} of {self.whole} seeds"
        return f"{self.rung:,} tokens"

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
        record, whole, unit = tables.at_equal_shares(record), record.spec.budget.tokens, "tokens"

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
    points = trial.result.points if trial.result else ()
    return {point.tokens_seen: point.val_loss for point in points}


def _at_seeds(record: StudyRecord) -> StudyRecord:
    """Return the study with each trial's curve over its seeds: the mean of their final losses so far.

    That is what trials of several seeds are judged by; within a seed none is stopped.
    """
    return replace(record, trials=tuple(_trial_at_seeds(trial) for trial in record.trials))


def _trial_at_seeds(trial: TrialRecord) -> TrialRecord:
    if trial.result is None:
        return trial

    losses = trial.seed_losses
    means = [statistics.fmean(losses[:count]) for count in range(1, len(losses) + 1)]
    points = tuple(EvalPoint(count, mean) for count, mean in enumerate(means, start=1))
    return replace(trial, result=replace(trial.result, points=points))


def _first_rung(record: StudyRecord, whole: int) -> int | None:
    """Return where the first trial was pruned, or the first evaluation that the default pruner would judge."""
    stopped = [
        trial.result.points[-1].tokens_seen
        for trial in record.trials
        if trial.status is TrialStatus.PRUNED and trial.result and trial.result.points
    ]
    if stopped:
        return min(stopped)

    judged: list[int] = []
    for trial in record.trials:
        if trial.loss is None or not trial.result:
            continue
        evaluated = [point.tokens_seen for point in trial.result.points[:-1]]
        judged += [seen for seen in evaluated if seen >= FIRST_RUNG_FRAC * whole]

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
        seen = trial.result.points[-1].tokens_seen if trial.result.points else 0
        if seen > 0:
            saved_s += trial.result.seconds * max(0.0, whole / seen - 1)

    return pruned, saved_s


def position_frac(dimension: Dimension, value: object) -> float | None:
    """Return where a value lies in its range: 0 at the low end, 1 at the high end, on the range's own scale.

    Args:
        dimension: A range or a list of choices.
        value: A value of it.

    Returns:
        0 to 1, or None for anything that lies outside or is no number.
    """
    if dimension.choices is None and finite(value) is None:
        return None

    return dimension.position(value) if dimension.contains(value) else None


def edge(dimension: Dimension, value: object) -> str:
    """Return "low" or "high" when a value lies within 10 % of an end that could be moved, else "".

    A low end of 0, and of 1 in whole numbers, is where a setting naturally ends, and choices have no ends.

    Args:
        dimension: The range.
        value: A value of it.
    """
    at = position_frac(dimension, value)
    if at is None or dimension.choices is not None or dimension.low == dimension.high:
        return ""

    natural = dimension.low == 0 or (dimension.is_integer and dimension.low == 1)
    if at <= EDGE_FRAC and not natural:
        return "low"
    return "high" if at >= 1 - EDGE_FRAC else ""


def edges(record: StudyRecord, params: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that lie at an edge of their range, with the edge's name; not those left at default."""
    best = best_settings(record)
    left = best.left_at_default if best else {}

    sides = {path: edge(dimension, params.get(path)) for path, dimension in record.spec.space.root.items()}
    return {path: side for path, side in sides.items() if side and path not in left}


def pareto(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the finished trials that no other beats in both loss and speed, fastest first.

    Args:
        trials: As `reports.tables.trials_table` gives it.

    Returns:
        Columns number, tokens_per_s and loss (nats per token).
    """
    is_known = trials["loss"].notna() & trials["tokens_per_s"].notna()
    done = trials.loc[is_known, ["number", "tokens_per_s", "loss"]]
    ordered = done.sort_values(["tokens_per_s", "loss"], ascending=[False, True], kind="stable")

    # A trial is beaten when one that is faster has at most its loss.
    lowest_of_faster = ordered["loss"].cummin().shift()
    is_unbeaten = (ordered["loss"] < lowest_of_faster) | lowest_of_faster.isna()
    return ordered[is_unbeaten].reset_index(drop=True)


def parallel_table(record: StudyRecord, trials: pd.DataFrame, settings: pd.DataFrame, best: int = 50) -> pd.DataFrame:
    """Return where the best trials' settings lie in their ranges, best first.

    Args:
        record: The study, for its space.
        trials: As `reports.tables.trials_table` gives it.
        settings: As `reports.tables.settings_table` gives it.
        best: Trials kept, >= 1.

    Returns:
        Columns number, loss and a position (0 to 1; NaN where the setting was not searched) per dotted path.
    """
    done = trials.loc[trials["loss"].notna(), ["number", "loss"]]
    done = done.nsmallest(best, "loss").reset_index(drop=True)

    columns = {}
    for path, dimension in record.spec.space.root.items():
        values = [settings.at[number, path] for number in done["number"]]
        columns[path] = [_position_or_nan(dimension, value) for value in values]

    positions = pd.DataFrame(columns, index=done.index, dtype=float)
    return pd.concat([done, positions], axis=1)


def _position_or_nan(dimension: Dimension, value: object) -> float:
    at = position_frac(dimension, value)
    return np.nan if at is None else at
