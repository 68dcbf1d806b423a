"""When a trial is stopped early, and how much that can be trusted.

Early losses rank trials only roughly. So this study's own trials tell a pruner how early is too early
(`measure_warm_up`), and a small random share of the trials that it would stop run on as audits: the share of them that
end among the best tells how many good trials were lost.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autotune.core.attributes import TrialAttributes

if TYPE_CHECKING:
    import optuna

# An early ranking is trusted if Spearman's rank correlation with the final losses is at least this.
_AGREEMENT = 0.8


def should_continue(trial: optuna.Trial, tokens: int, *, pruner_name: str, audit_frac: float, seed: int) -> bool:
    """Return whether a running trial that has just reported goes on, and mark it if the pruner would stop it.

    Args:
        trial: A trial of the search.
        tokens: Its training tokens so far.
        pruner_name: The study's pruner, a key of `pruners.PRUNERS`.
        audit_frac: Share of the trials to be stopped that run on as audits, 0 to 1.
        seed: The study's seed, which decides together with the trial's number which trials become audits.

    Returns:
        False if the trial is to be stopped; True for an audit as well.
    """
    attributes = TrialAttributes(trial)

    # The baseline is what everything is compared with, so it always runs to its end.
    if attributes.role == "baseline" or attributes.audited_at is not None:
        return True

    # Without a pruner there is nothing to ask, and Optuna refuses to be asked where a trial has several values.
    if pruner_name == "none":
        return True

    if not trial.should_prune():
        return True

    is_audit = random.Random(f"audit {seed} {trial.number}").random() < audit_frac
    if is_audit:
        attributes.audited_at = tokens
    else:
        attributes.stopped_at = tokens
    return is_audit


def curves_unbiased_by_pruning(
    finished: Mapping[int, Mapping[int, float]], audited: Collection[int], stopped: Collection[int]
) -> list[Mapping[int, float]]:
    """Return the curves of the finished trials that would have finished whatever the pruner said.

    These are the trials before the first one stopped, and the audits. The others finished because the pruner
    let them, so their early and final losses agree by selection.

    Args:
        finished: Losses by tokens of each trial that ran to its end, by number.
        audited: Numbers of audits.
        stopped: Numbers of trials that the pruner stopped.
    """
    after_the_last = max(finished, default=0) + 1
    first_stopped = min(stopped, default=after_the_last)
    return [curve for number, curve in finished.items() if number < first_stopped or number in audited]


@dataclass(frozen=True)
class WarmUp:
    """How early the trials of a study may be judged.

    Args:
        tokens: Training tokens before which no trial is stopped; those of a whole trial if no ranking agreed.
        rank_correlation: Spearman's rank correlation between the losses there and the final ones, -1 to 1.
        trials: Number of trials that it was measured on.
    """

    tokens: int
    rank_correlation: float
    trials: int


def measure_warm_up(curves: Sequence[Mapping[int, float]], agreement: float = _AGREEMENT) -> WarmUp | None:
    """Return the earliest evaluation from which on every ranking agrees with the final one.

    Args:
        curves: Losses by tokens of trials that ran to their end and were not chosen by a pruner.
        agreement: Rank correlation that counts as agreement.

    Returns:
        None for fewer than three trials, or trials without a common evaluation before the end.
    """
    if len(curves) < 3:
        return None

    common_tokens = sorted(set.intersection(*(set(curve) for curve in curves)))
    if len(common_tokens) < 2:
        return None

    losses = [[curve[tokens] for tokens in common_tokens] for curve in curves]
    correlations = rank_correlations(losses)

    earliest = len(common_tokens) - 1
    # The margin lets a correlation of exactly `agreement` count in spite of rounding.
    while earliest and correlations[earliest - 1] >= agreement - 1e-9:
        earliest -= 1

    return WarmUp(common_tokens[earliest], correlations[earliest], len(curves))


def rank_correlations(losses: Sequence[Sequence[float]] | np.ndarray) -> list[float]:
    """Return Spearman's rank correlation (1904) of each column with the last; 0 where a column is constant.

    Args:
        losses: A row for each trial, a column for each evaluation; finite.
    """
    ranks = np.apply_along_axis(_ranks, 0, np.asarray(losses, dtype=float))
    centred = ranks - ranks.mean(axis=0)
    products = centred.T @ centred[:, -1]
    lengths = np.sqrt((centred**2).sum(axis=0))
    scales = lengths * lengths[-1]

    correlations = np.divide(products, scales, out=np.zeros_like(products), where=scales != 0)
    return [float(correlation) for correlation in correlations]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value from 1; equal values share the mean of their ranks."""
    # By hand, since scipy.stats, which has it too, takes more than half a second to import.
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks: np.ndarray = mean_ranks[places]
    return ranks
