"""What pairs of runs can prove: the smallest gain that a number of them shows, and the pairs that a gain needs.

Both follow from the rule of `verdict.judge`, with its several looks. A gain counts as provable if the last look shows
it in four of five studies; the looks before it only add to that.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from autotune.core.records import TrialRecord
from autotune.core.statistics import student_quantile
from autotune.core.study_results import Noise
from autotune.finals.verdict import PROVE, SELECT, confidences, paired_gains
from autotune.study.spec import FinalsSpec

_POWER = 0.8
"""Share of studies in which a gain that is called provable is proved."""
MOST_PAIRS = 1_000
"""Largest number of pairs that is considered; nobody would train more."""


def measure_noise(baseline: int, finals: Sequence[TrialRecord], spec: FinalsSpec) -> Noise | None:
    """Return the noise, or None while fewer than two of the baseline's runs have finished.

    Args:
        baseline: Number of the baseline's search trial.
        finals: Re-runs so far.
        spec: How the finals are run.
    """
    proofs = [run for run in finals if (run.arm, run.stage) == (baseline, PROVE)]
    losses = [run.loss for run in proofs if run.loss is not None]
    if len(losses) < 2:
        return None

    sigma = statistics.stdev(losses)
    # The two losses of a pair are taken as independent, since only the baseline's are known yet.
    gain = provable_gain(2**0.5 * sigma, spec)
    return Noise(sigma, len(losses), statistics.mean(losses), spec.looks[-1], gain)


def seed_noise(trial: int, finals: Sequence[TrialRecord]) -> float | None:
    """Return the standard deviation of one trial's loss between fresh seeds, nats per token.

    Args:
        trial: Its number.
        finals: Re-runs so far.

    Returns:
        None while fewer than three of its runs have finished: two say too little of a deviation.
    """
    losses = [run.loss for run in finals if run.arm == trial and run.stage in (SELECT, PROVE) and run.loss is not None]
    return statistics.stdev(losses) if len(losses) > 2 else None


def provable_gain(pair_sigma: float, spec: FinalsSpec) -> float:
    """Return the smallest gain that all pairs of a study prove with probability `_POWER`, nats per token.

    Source: the power of the two-sided paired t test by shifted quantiles, (t_a + t_power) x s / sqrt(n), where `a` is
    what the last look may err to one side.

    Args:
        pair_sigma: Standard deviation of the difference between the two losses of a pair, nats per token.
        spec: How the finals are run.
    """
    pairs = spec.looks[-1]
    one_sided = (1 + confidences(spec)[-1]) / 2
    quantiles = student_quantile(one_sided, pairs - 1) + student_quantile(_POWER, pairs - 1)
    return float(quantiles * pair_sigma / pairs**0.5)


def pairs_needed(gain: float, pair_sigma: float, spec: FinalsSpec) -> int | None:
    """Return the fewest pairs (`finals.max_seeds`) that prove a gain with probability `_POWER`.

    Args:
        gain: The true gain, nats per token.
        pair_sigma: As for `provable_gain`.
        spec: How the finals are run otherwise; the pairs begin with its `prove_seeds`.

    Returns:
        At least `prove_seeds`; None if the gain is not positive or needs more than `MOST_PAIRS`.
    """
    if gain <= 0:
        return None

    for pairs in range(spec.prove_seeds, MOST_PAIRS + 1):
        if provable_gain(pair_sigma, spec.model_copy(update={"max_seeds": pairs})) <= gain:
            return pairs

    return None


def pairs_to_settle(baseline: int, winner: int, finals: Sequence[TrialRecord], spec: FinalsSpec) -> int | None:
    """Return the pairs that would settle whether the winner's gain is one, as far as its pairs so far tell.

    A gain below the smallest one worth having is settled once that would show.

    Args:
        baseline: Number of the baseline's search trial.
        winner: Number of the winner's search trial.
        finals: Re-runs so far.
        spec: How the finals are run.

    Returns:
        More pairs than were trained; None if fewer than two pairs finished, no gain was measured or `MOST_PAIRS` would
        not do.
    """
    gains = paired_gains(baseline, winner, finals)
    if len(gains) < 2 or statistics.mean(gains) <= 0:
        return None

    losses = [run.loss for run in finals if (run.arm, run.stage) == (baseline, PROVE) and run.loss is not None]
    worth_having = spec.min_gain_frac * abs(statistics.mean(losses))
    gain = max(statistics.mean(gains), worth_having)
    pairs = pairs_needed(gain, statistics.stdev(gains), spec)
    if pairs is None:
        return None

    return max(pairs, len(gains) + 1)
