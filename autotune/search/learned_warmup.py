"""A pruner that waits until early rankings of its own study's trials agree with the final one."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from autotune.core.attributes import PRIOR, TrialAttributes
from autotune.search.pruning import curves_unbiased_by_pruning, measure_warm_up

MIN_UNBIASED_TRIALS = 8
"""Trials needed before the warm-up is learned from this study: finished ones that no pruner has chosen."""


class LearnedWarmup(BasePruner):
    """Asks another pruner, but not before the share of the budget at which early ranks can be trusted.

    That share is measured anew whenever a trial has finished that no pruner has chosen: those before the first one
    pruned, and the audits.

    Args:
        inner: The pruner to ask.
        default_tokens: Tokens before which nothing is judged while there are fewer than `MIN_UNBIASED_TRIALS` such
            trials.
    """

    def __init__(self, inner: BasePruner, default_tokens: int) -> None:
        self.inner = inner
        self._default_tokens = default_tokens
        self._measured_curves: list[Mapping[int, float]] = []
        self._measured_tokens = default_tokens

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to stop a trial; see optuna.pruners.BasePruner."""
        tokens = trial.last_step or 0
        return tokens >= self._warmup_tokens(study) and self.inner.prune(study, trial)

    def _warmup_tokens(self, study: optuna.Study) -> int:
        """Return the tokens before which nothing is judged."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        # What an earlier study finished may have been chosen by its pruner.
        trials = [trial for trial in ended if TrialAttributes(trial).role != PRIOR]

        curves = curves_unbiased_by_pruning(
            {trial.number: trial.intermediate_values for trial in trials if trial.state is TrialState.COMPLETE},
            audited=[trial.number for trial in trials if TrialAttributes(trial).audited_at is not None],
            stopped=[trial.number for trial in trials if TrialAttributes(trial).stopped_at is not None],
        )
        if len(curves) < MIN_UNBIASED_TRIALS:
            return self._default_tokens

        # Their number would not do: another study may have as many.
        if curves != self._measured_curves:
            self._measured_curves = curves
            self._measured_tokens = self._default_tokens

            warm_up = measure_warm_up(curves)
            if warm_up is not None:
                self._measured_tokens = warm_up.tokens
        return self._measured_tokens
