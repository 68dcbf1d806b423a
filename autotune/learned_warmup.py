"""A pruner that waits as long as the rankings of its own study's trials say it must."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from autotune.pruning import AUDITED_AT, STOPPED_AT, unchosen, warm_up
from autotune.records import PRIOR


class LearnedWarmup(BasePruner):
    """Asks another pruner, but not before the share of the budget at which early ranks can be trusted.

    That share is measured anew whenever a trial has finished that no pruner chose: those before the first one
    pruned, and the audits.

    Args:
        inner: The pruner to ask.
        n_startup_trials: Trials to measure on at the least, 3 or more.

    Raises:
        ValueError: If there are fewer.
    """

    def __init__(self, inner: BasePruner, n_startup_trials: int) -> None:
        if n_startup_trials < 3:
            raise ValueError(
                f"n_startup_trials = {n_startup_trials} are too few to learn the warm-up from; "
                "give 3 or more, or a warmup_frac"
            )
        self.inner = inner
        self._n_startup_trials = n_startup_trials
        self._known: tuple[int, int | None] = (0, None)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether to stop a trial; see optuna.pruners.BasePruner."""
        tokens = self.warmup_tokens(study)
        return tokens is not None and (trial.last_step or 0) >= tokens and self.inner.prune(study, trial)

    def warmup_tokens(self, study: optuna.Study) -> int | None:
        """Returns the tokens before which nothing is judged, or None while too few trials have finished."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        # What an earlier study finished may have been chosen by its pruner.
        trials = [trial for trial in ended if trial.user_attrs.get("role") != PRIOR]
        curves = unchosen(
            {trial.number: trial.intermediate_values for trial in trials if trial.state is TrialState.COMPLETE},
            audited=[trial.number for trial in trials if AUDITED_AT in trial.user_attrs],
            stopped=[trial.number for trial in trials if STOPPED_AT in trial.user_attrs],
        )
        if len(curves) < self._n_startup_trials:
            return None
        if self._known[0] != len(curves):
            found = warm_up(curves)
            self._known = len(curves), None if found is None else found.tokens
        return self._known[1]
