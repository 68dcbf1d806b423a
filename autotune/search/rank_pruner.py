"""The default pruner: a trial is stopped where hardly a good one would rank so low.

How low that is depends on how well ranks agree with the final ones, which differs from study to study: early losses may
tell nearly everything or nothing. A study's own finished trials tell it, and until there are enough, other studies do.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.search.pruning import rank_correlations

FIRST_CHECK_FRAC = 1 / 32
"""Share of a whole trial at which it is judged first; then whenever it has trained twice as long."""
LOST_FRAC = 0.02
"""Share of the trials of the best tenth that each check may stop, so that all five lose a tenth of them at most.

Of the best that a good sampler proposes they lose more (tests/benchmarks/RESULTS.md)."""
_CHECK_FRACS = tuple(FIRST_CHECK_FRAC * 2**doubling for doubling in range(5))
_BEST_FRAC = 0.1
# Fisher's z of the rank correlation at the end of a trial, and how much each e-fold of training adds to it: the line of
# least squares through what twelve recorded tables have, of which each differs (tests/benchmarks/RESULTS.md). Without
# any one of them it is 2.0 to 2.2 and 0.39 to 0.45.
_FINAL_Z = 2.2
_Z_PER_EFOLD = 0.43
_PRIOR_TRIALS = 4
"""How many finished trials these two count for."""


class RankPruner(BasePruner):
    """Stops a trial whose rank is one that few trials of the best tenth would have.

    A trial is compared with all that were evaluated at the same tokens. Final and early scores of ranks are taken as
    normal with the correlation that the study has shown (`expected_correlation`); `kept_share` says how low a rank may
    be then. Where early ranks tell little, next to nothing is stopped.

    Args:
        budget_tokens: Tokens of a whole trial.
        lost_frac: Share of the trials of the best tenth that each check may stop, above 0 and below 1.

    Raises:
        ValueError: If `lost_frac` is out of its range.
    """

    def __init__(self, budget_tokens: int, lost_frac: float = LOST_FRAC) -> None:
        if not 0 < lost_frac < 1:
            raise ValueError(f"lost_frac must be above 0 and below 1, but it is {lost_frac!r}")
        self._budget_tokens = budget_tokens
        self._lost_frac = lost_frac

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to stop a trial; see optuna.pruners.BasePruner."""
        tokens = trial.last_step
        if tokens is None or not self._is_check(trial, tokens):
            return False

        sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
        loss = sign * trial.intermediate_values[tokens]
        others = [
            each
            for each in study.get_trials(deepcopy=False)
            if each.number != trial.number and tokens in each.intermediate_values
        ]
        finished = [each.intermediate_values for each in others if each.state is TrialState.COMPLETE]
        if not finished or not math.isfinite(loss):
            return False

        pairs = [[curve[tokens], curve[max(curve)]] for curve in finished]
        correlation = expected_correlation(pairs, tokens / self._budget_tokens)
        # One more than the share, or the first few would be judged by too few others.
        kept = math.ceil(kept_share(correlation, self._lost_frac) * (len(others) + 1)) + 1
        rank = 1 + sum(sign * each.intermediate_values[tokens] < loss for each in others)
        return rank > kept

    def _is_check(self, trial: FrozenTrial, tokens: int) -> bool:
        """Return whether this is the first evaluation at or after one of the checks, and not the last of the trial."""
        if tokens >= self._budget_tokens:
            return False

        before = max((step for step in trial.intermediate_values if step < tokens), default=0)
        return any(before < frac * self._budget_tokens <= tokens for frac in _CHECK_FRACS)


def expected_correlation(pairs: list[list[float]], frac: float) -> float:
    """Return the rank correlation of early losses with final ones that is to be expected, -1 to 1.

    It is the mean of what other studies had and what this one has, on Fisher's scale (1921), on which a correlation of
    n trials has the variance 1 / (n - 3).

    Args:
        pairs: Early and final loss of each finished trial.
        frac: Share of a whole trial at which the early ones were measured, above 0 and up to 1.
    """
    prior_z = _FINAL_Z + _Z_PER_EFOLD * math.log(frac)
    weight = len(pairs) - 3
    if weight <= 0:
        return math.tanh(prior_z)

    measured = min(max(rank_correlations(pairs)[0], -0.99), 0.99)
    return math.tanh((_PRIOR_TRIALS * prior_z + weight * math.atanh(measured)) / (_PRIOR_TRIALS + weight))


def kept_share(correlation: float, lost_frac: float) -> float:
    """Return the share of trials that is kept if only so many of the best tenth may be stopped, 0 to 1.

    With normal scores of a given correlation, the final scores of the best tenth are those of a normal distribution cut
    at its tenth; their early scores are taken as normal with the mean and the variance that follow.

    Args:
        correlation: Of early with final scores, -1 to 1.
        lost_frac: Share of the best tenth that may be stopped, above 0 and below 1.
    """
    normal = NormalDist()
    cut = normal.inv_cdf(_BEST_FRAC)
    mean = -normal.pdf(cut) / _BEST_FRAC
    variance = 1 + cut * mean - mean**2

    early_sigma = math.sqrt(correlation**2 * variance + 1 - correlation**2)
    return normal.cdf(correlation * mean + normal.inv_cdf(1 - lost_frac) * early_sigma)
