"""From the best search trials to a verdict: fresh seeds, paired with the baseline, and an interval.

The best of many equal trials looks better than it is (for 40 of them by about 2.2 standard deviations), so
nothing that took part in the choice is used in the estimate: finalists are chosen by the search, the winner
among them on `select` seeds, and its gain is measured on further `prove` seeds.

The baseline's `prove` runs come before the search, which does not see them: they tell how much the loss changes
with the seed alone. While the pairs do not decide, more are trained; each look has its share of the 5 % that may go
wrong, so that looking often does not announce noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.core.records import TrialRecord, Verdict, VerdictWord
from autotune.core.statistics import CONFIDENCE, INTERVAL, student_quantile
from autotune.study.spec import FinalsSpec

SELECT = "select"
"""Stage of the runs that choose the winner among the finalists."""
PROVE = "prove"
"""Stage of the paired runs that measure the winner's gain."""
ATTRIBUTE = "attribute"
"""Stage of the runs that measure what each of the winner's changes gives."""
_FRESH_SEED_OFFSET = 1_000
"""Distance of the first fresh seed from the search's own, so that no seed serves both."""


@dataclass(frozen=True)
class FinalRun:
    """One training of the finals.

    Args:
        arm: Search trial whose settings are repeated; the baseline's own number for the baseline.
        params: Its settings by dotted path.
        seed: Fresh seed.
        stage: "select", "prove" or "attribute".
    """

    arm: int
    params: Mapping[str, Any]
    seed: int
    stage: str


def ranked(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the finished trials, best first."""
    finished = [trial for trial in trials if trial.loss is not None]
    return sorted(finished, key=lambda trial: trial.loss if trial.loss is not None else 0.0)


def finalists(trials: Sequence[TrialRecord], baseline: TrialRecord, count: int) -> list[TrialRecord]:
    """Return the best search trials whose settings differ from the baseline's, doubles left out.

    Args:
        trials: The whole search.
        baseline: The trial that ran the base config.
        count: How many at most.

    Returns:
        Best first; none if no trial with other settings finished.
    """
    chosen: list[TrialRecord] = []
    seen = [dict(baseline.params)]
    for trial in ranked(trials):
        if len(chosen) < count and dict(trial.params) not in seen:
            seen.append(dict(trial.params))
            chosen.append(trial)

    return chosen


def fresh_seeds(spec: FinalsSpec, search_seed: int) -> range:
    """Return all seeds on which the finals of a study may ever train.

    Args:
        spec: How its finals are run.
        search_seed: The seed of its search.
    """
    first = search_seed + _FRESH_SEED_OFFSET + spec.skip_seeds
    return range(first, first + spec.select_seeds + spec.looks[-1])


def selection_runs(arms: Sequence[TrialRecord], spec: FinalsSpec, search_seed: int) -> list[FinalRun]:
    """Return the trainings that choose the winner; none when there is only one finalist."""
    if len(arms) < 2:
        return []

    seeds = fresh_seeds(spec, search_seed)[: spec.select_seeds]
    return [FinalRun(arm.number, arm.params, seed, SELECT) for seed in seeds for arm in arms]


def proving_runs(
    baseline: TrialRecord, winner: TrialRecord, spec: FinalsSpec, search_seed: int, pairs: int
) -> list[FinalRun]:
    """Return the trainings that measure the gain, pair after pair, so that an early end keeps whole pairs."""
    seeds = _prove_seeds(spec, search_seed, pairs)
    return [FinalRun(arm.number, arm.params, seed, PROVE) for seed in seeds for arm in (baseline, winner)]


def noise_runs(baseline: TrialRecord, spec: FinalsSpec, search_seed: int, count: int) -> list[FinalRun]:
    """Return the baseline's part of the first pairs."""
    return [FinalRun(baseline.number, baseline.params, seed, PROVE) for seed in _prove_seeds(spec, search_seed, count)]


def _prove_seeds(spec: FinalsSpec, search_seed: int, count: int) -> range:
    return fresh_seeds(spec, search_seed)[spec.select_seeds : spec.select_seeds + count]


def confidences(spec: FinalsSpec) -> list[float]:
    """Return the confidence of each look's interval.

    The looks share what `CONFIDENCE` leaves, each twice as much as the one before, so that all intervals hold
    together with that confidence (Bonferroni 1936) and an early look decides only where the gain is plain.
    """
    weights = [2**look for look in range(len(spec.looks))]
    return [1 - (1 - CONFIDENCE) * weight / sum(weights) for weight in weights]


def choose_winner(arms: Sequence[TrialRecord], finals: Sequence[TrialRecord]) -> TrialRecord:
    """Return the finalist with the lowest mean loss on the selection seeds.

    An arm that failed on a selection seed cannot be relied on: it comes after those that did not fail, and an arm
    without a finished selection run comes last. Without any selection run the order of the search holds.

    Args:
        arms: Finalists, best search result first; not empty.
        finals: Re-runs so far.
    """

    def order(arm: TrialRecord) -> tuple[int, float]:
        runs = [run for run in finals if run.arm == arm.number and run.stage == SELECT]
        losses = [run.loss for run in runs if run.loss is not None]
        if not losses:
            return len(finals), float("inf")

        failed = sum(run.status.blames_settings for run in runs)
        return failed, statistics.mean(losses)

    return min(arms, key=order)


def judge(
    baseline: TrialRecord, winner: TrialRecord, finals: Sequence[TrialRecord], spec: FinalsSpec, look: int = 0
) -> Verdict:
    """Return the verdict from the proving runs, by a paired t interval.

    Source: Student (1908), the paired t test: the mean of the differences between pairs of the same seed,
    plus and minus a quantile of t with n - 1 degrees of freedom times their standard error: the 97.5 % quantile
    if there is one look, a higher one for each of several (`confidences`).

    Args:
        baseline: The baseline's search trial.
        winner: The winner's search trial.
        finals: Re-runs; only pairs in which both finished count.
        spec: How the finals are run.
        look: Which of `spec.looks` this is, from 0.

    Returns:
        The word, its reason and what was measured; without numbers if no pair finished.
    """
    pairs = _pairs(baseline.number, winner.number, finals)
    lost = failed_seeds(winner.number, finals)
    if not pairs:
        return Verdict(
            VerdictWord.INCONCLUSIVE,
            "no pair of fresh-seed runs finished, so the gain could not be measured",
            winner.number,
            winner.params,
        )

    baseline_losses = [_loss(base) for base, _ in pairs]
    winner_losses = [_loss(best) for _, best in pairs]
    gains = [base - best for base, best in zip(baseline_losses, winner_losses, strict=True)]
    baseline_loss = statistics.mean(baseline_losses)
    low, high = interval(gains, confidences(spec)[look])
    min_gain = spec.min_gain_frac * abs(baseline_loss)
    word, reason = _word(low, high, min_gain, len(pairs), lost)
    if word is VerdictWord.BETTER and len(set(baseline_losses)) == len(set(winner_losses)) == 1:
        word, reason = VerdictWord.INCONCLUSIVE, "every seed gave the same result, so the runs say nothing of chance"

    return Verdict(
        word=word,
        reason=reason,
        winner=winner.number,
        params=winner.params,
        seeds=tuple(base.seed for base, _ in pairs),
        baseline_loss=baseline_loss,
        winner_loss=statistics.mean(winner_losses),
        gain=statistics.mean(gains),
        gain_low=low,
        gain_high=high,
        sigma=statistics.stdev(baseline_losses) if len(pairs) > 1 else None,
        min_gain=min_gain,
        baseline_metrics=mean_metrics([base for base, _ in pairs]),
        winner_metrics=mean_metrics([best for _, best in pairs]),
    )


def interval(gains: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Return the ends of the t interval of the mean of paired differences; (None, None) for fewer than two."""
    if len(gains) < 2:
        return None, None

    mean = statistics.mean(gains)
    error = statistics.stdev(gains) / len(gains) ** 0.5
    half = student_quantile((1 + confidence) / 2, len(gains) - 1) * error

    return mean - half, mean + half


def _word(low: float | None, high: float | None, min_gain: float, pairs: int, lost: int) -> tuple[VerdictWord, str]:
    if low is None or high is None:
        return VerdictWord.INCONCLUSIVE, f"only {pairs} pair of fresh-seed runs finished; at least two are needed"

    if lost:
        return VerdictWord.INCONCLUSIVE, f"the winner failed on {lost} of its fresh seeds, so it cannot be relied on"

    if low > 0:
        return VerdictWord.BETTER, f"the gain's {INTERVAL} from {pairs} pairs of runs lies above zero"
    if high < min_gain:
        return VerdictWord.NO_CLEAR_GAIN, "whatever gain there may be is smaller than one worth having"

    return VerdictWord.INCONCLUSIVE, f"{pairs} pairs of runs cannot tell a useful gain from none"


def _pairs(baseline: int, winner: int, finals: Sequence[TrialRecord]) -> list[tuple[TrialRecord, TrialRecord]]:
    finished = {(run.arm, run.seed): run for run in finals if run.stage == PROVE and run.loss is not None}
    seeds = sorted(seed for arm, seed in finished if arm == baseline and (winner, seed) in finished)
    return [(finished[baseline, seed], finished[winner, seed]) for seed in seeds]


def paired_gains(baseline: int, winner: int, finals: Sequence[TrialRecord]) -> list[float]:
    """Return the baseline's loss less the winner's on each proving seed on which both finished, nats per token."""
    return [_loss(base) - _loss(best) for base, best in _pairs(baseline, winner, finals)]


def failed_seeds(winner: int, finals: Sequence[TrialRecord]) -> int:
    """Return on how many proving seeds the winner diverged or ran out of memory; no further seed mends that."""
    proofs = [run for run in finals if (run.arm, run.stage) == (winner, PROVE)]
    return sum(run.status.blames_settings for run in proofs)


def _loss(run: TrialRecord) -> float:
    assert run.loss is not None
    return run.loss


def mean_metrics(runs: Sequence[TrialRecord]) -> dict[str, float]:
    """Return the means of the last evaluations' metrics, by name; of the metrics that every run reported."""
    last = [run.result.points[-1].metrics for run in runs if run.result and run.result.points]
    if not last:
        return {}

    shared = set.intersection(*(set(metrics) for metrics in last))
    return {name: statistics.mean(metrics[name] for metrics in last) for name in sorted(shared)}
