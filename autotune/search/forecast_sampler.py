"""A sampler that learns from stopped trials too, by the loss that they would have ended with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.core.attributes import TrialAttributes
from autotune.search.fine_ranges import as_continuous, on_grid
from autotune.search.forecast import forecast
from autotune.search.ranges import CurrentRanges
from autotune.search.space import SearchSpace

# Losses in nats per token, by training tokens.
_Curve = Mapping[int, float]


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
        if _has_several_values(study):
            return self._inner.infer_relative_search_space(study, trial)

        return super().infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Any:
        """See optuna.samplers.BaseSampler."""
        _use_one_thread()

        continuous = as_continuous(search_space)
        if _has_several_values(study):
            if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                return {}  # there is nothing to learn from yet, as below
            return on_grid(super().sample_relative(study, trial, continuous), search_space)

        trials = self._as_if_ended(study, continuous)
        if not any(trial.state is TrialState.COMPLETE for trial in trials):
            return {}  # there is nothing to learn from yet, so each setting is drawn independently

        as_if = optuna.create_study(sampler=optuna.samplers.RandomSampler())
        as_if.add_trials(trials)
        asked = as_if.ask()

        proposed = self._inner.sample_relative(as_if, as_if.trials[asked.number], continuous)
        return on_grid(proposed, search_space)

    def _as_if_ended(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> list[FrozenTrial]:
        """Return the trials that teach something, with a value for each that no longer runs."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = [trial for trial in study.get_trials(deepcopy=False, states=states) if trial.params]

        expected_losses = _expected_losses(trials)
        known_losses = [loss for loss in expected_losses.values() if loss is not None]
        worst_loss = max(known_losses, default=0.0)

        shown = []
        for trial in trials:
            settings = {**self._defaults, **trial.params}
            params = {path: settings[path] for path in search_space}
            if not all(_allows(search_space[path], value) for path, value in params.items()):
                continue  # an earlier range held it, and the present one does not

            state, loss = TrialState.COMPLETE, expected_losses[trial.number]
            if loss is None:
                loss = worst_loss
            if trial.state is TrialState.RUNNING:
                state, loss = TrialState.RUNNING, None

            shown.append(create_trial(state=state, params=params, distributions=search_space, value=loss))
        return shown


def _has_several_values(study: optuna.Study) -> bool:
    """Return whether trials are judged by several values; then none is stopped, so there is nothing to forecast."""
    return len(study.directions) > 1


def _use_one_thread() -> None:
    """Keep the Gaussian process, which Optuna computes with torch, off the other cores.

    Its matrices are tiny, and threads may cost more than they compute: on a host of 32 cores 0.8 s passed between two
    trials, where two cores take 0.1 s for a proposal.
    """
    import torch

    torch.set_num_threads(1)


def _allows(distribution: BaseDistribution, value: Any) -> bool:
    return distribution._contains(distribution.to_internal_repr(value))


def _expected_losses(trials: Sequence[FrozenTrial]) -> dict[int, float | None]:
    """Return the final loss of each trial by its number, measured or forecast; see `_expected_loss`."""
    finished: list[_Curve] = [
        trial.intermediate_values
        for trial in trials
        if trial.state is TrialState.COMPLETE and trial.intermediate_values
    ]
    return {trial.number: _expected_loss(trial, finished) for trial in trials}


def _expected_loss(trial: FrozenTrial, finished: Sequence[_Curve]) -> float | None:
    """Return the loss that a trial ended with or would have; None for one that diverged or ran out of memory."""
    if trial.state is TrialState.COMPLETE:
        return trial.value
    if TrialAttributes(trial).stopped_at is None or trial.last_step is None:
        return None

    expected = forecast(trial.last_step, trial.intermediate_values[trial.last_step], finished)
    if expected is None:
        return None

    # A stopped trial never counts as better than the best one that was trained to its end.
    best_loss = min(curve[max(curve)] for curve in finished)
    return max(expected, best_loss)
