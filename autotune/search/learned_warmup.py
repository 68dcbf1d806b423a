"""A pruner that waits as long as the rankings of its own study's trials say it must."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from autotune.core.attributes import AUDITED_AT, PRIOR, STOPPED_AT
from autotune.search.pruning import curves_unbiased_by_pruning, warm_up

MEASURED_ON = 8
"""Trials that no pruner chose, before which the study's own rankings say too little."""


class LearnedWarmup(BasePruner):
    """Asks another pruner, but not before the share of the budget at which early ranks can be trusted.

    That share is measured anew whenever a trial has finished that no pruner chose: those before the first one
    pruned, and the audits.

    Args:
        inner: The pruner to ask.
        default_tokens: Tokens before which nothing is judged as long as there are fewer than `MEASURED_ON` such trials.
    """

    def __init__(self, inner: BasePruner, default_tokens: int) -> None:
        self.inner = inner
        self._default_tokens = default_tokens
        self._known: tuple[int, int] = (0, default_tokens)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether to stop a trial; see optuna.pruners.BasePruner."""
        return (trial.last_step or 0) >= self.warmup_tokens(study) and self.inner.prune(study, trial)

    def warmup_tokens(self, study: optuna.Study) -> int:
        """Returns the tokens before which nothing is judged."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        # What an earlier study finished may have been chosen by its pruner.
        trials = [trial for trial in ended if trial.user_attrs.get("role") != PRIOR]
        curves = curves_unbiased_by_pruning(
            {trial.number: trial.intermediate_values for trial in trials if trial.state is TrialState.COMPLETE},
            audited=[trial.number for trial in trials if AUDITED_AT in trial.user_attrs],
            stopped=[trial.number for trial in trials if STOPPED_AT in trial.user_attrs],
        )
        if len(curves) < MEASURED_ON:
            return self._default_tokens
        if self._known[0] != len(curves):
            found = warm_up(curves)
            self._known = len(curves), self._default_tokens if found is None else found.tokens
        return self._known[1]
