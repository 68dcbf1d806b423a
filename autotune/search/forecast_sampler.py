"""A sampler that learns from stopped trials too, by what they would have ended with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.core.attributes import STOPPED_AT
from autotune.search.forecast import forecast
from autotune.search.ranges import CurrentRanges
from autotune.search.space import SearchSpace


class ForecastSampler(CurrentRanges):
    """Shows another sampler the study as if every trial had ended, those that were stopped with their forecast.

    Gaussian processes learn from finished trials alone, but most trials of a good search are stopped. One that
    diverged or ran out of memory counts as the worst of all. A setting whose condition does not hold counts with its
    base value, so that all are proposed together.

    Args:
        inner: The sampler to ask.
        space: What the study file searches.
        base: The nested base config.
    """

    def __init__(self, inner: BaseSampler, space: SearchSpace, base: Mapping[str, Any]) -> None:
        super().__init__(inner, space)
        self._defaults = space.defaults(base)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See optuna.samplers.BaseSampler."""
        if len(study.directions) > 1:  # nothing is stopped there, so nothing is to be forecast
            return self._inner.infer_relative_search_space(study, trial)
        return super().infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Any:
        """See optuna.samplers.BaseSampler."""
        _use_one_thread()
        if len(study.directions) > 1:
            return super().sample_relative(study, trial, search_space)

        trials = self._ended(study, search_space)
        if not any(trial.state is TrialState.COMPLETE for trial in trials):
            return {}  # nothing to learn from yet, so each setting is drawn independently

        as_if = optuna.create_study(sampler=optuna.samplers.RandomSampler())
        as_if.add_trials(trials)
        asked = as_if.ask()
        proposed: dict[str, Any] = self._inner.sample_relative(as_if, as_if.trials[asked.number], search_space)
        return proposed

    def _ended(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> list[FrozenTrial]:
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = [trial for trial in study.get_trials(deepcopy=False, states=states) if trial.params]
        finished: list[Mapping[int, float]] = [
            trial.intermediate_values
            for trial in trials
            if trial.state is TrialState.COMPLETE and trial.intermediate_values
        ]
        values = {trial.number: _expected(trial, finished) for trial in trials}
        worst = max((value for value in values.values() if value is not None), default=0.0)
        found = []
        for trial in trials:
            settings = {**self._defaults, **trial.params}
            params = {path: settings[path] for path in search_space}
            if all(search_space[path]._contains(search_space[path].to_internal_repr(params[path])) for path in params):
                state = TrialState.RUNNING if trial.state is TrialState.RUNNING else TrialState.COMPLETE
                value = values[trial.number]
                found.append(
                    create_trial(
                        state=state,
                        params=params,
                        distributions=search_space,
                        value=(worst if value is None else value) if state is TrialState.COMPLETE else None,
                    )
                )
        return found


def _use_one_thread() -> None:
    """Keeps the Gaussian process, which Optuna computes with torch, off the other cores.

    Its matrices are tiny, and threads may cost more than they compute: on a host of 32 cores 0.8 s passed between two
    trials, where two cores take 0.1 s for a proposal.
    """
    import torch

    torch.set_num_threads(1)


def _expected(trial: FrozenTrial, finished: Sequence[Mapping[int, float]]) -> float | None:
    """Returns the loss that a trial ended with or would have; None for one that diverged or ran out of memory."""
    if trial.state is TrialState.COMPLETE:
        return trial.value
    if STOPPED_AT not in trial.user_attrs or trial.last_step is None:
        return None
    expected = forecast(trial.last_step, trial.intermediate_values[trial.last_step], finished)
    # Nothing that was stopped is taken for better than the best that was trained to its end.
    return None if expected is None else max(expected, min(curve[max(curve)] for curve in finished))
