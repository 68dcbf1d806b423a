"""Our records of trials, made of those that Optuna's storage has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autotune.core.attributes import PRIOR, TrialAttributes
from autotune.core.changes import changed_places
from autotune.core.records import TrialRecord, TrialStatus
from autotune.study.spec import BudgetSpec

if TYPE_CHECKING:
    import optuna


def own_records(trials: Sequence[optuna.trial.FrozenTrial], budget: BudgetSpec) -> list[TrialRecord]:
    """Return our records of a study's own Optuna trials, by number.

    Args:
        trials: All trials of an Optuna study.
        budget: The budget of the search that they belong to.
    """
    return KnownRecords(budget).own(trials)


class KnownRecords:
    """Our records of an Optuna study's trials, of which only those are made anew that have changed.

    Args:
        budget: The budget of the search that they belong to.
    """

    def __init__(self, budget: BudgetSpec) -> None:
        self._budget = budget
        self._trials: list[optuna.trial.FrozenTrial] = []
        self._records: list[TrialRecord | None] = []

    def own(self, trials: Sequence[optuna.trial.FrozenTrial]) -> list[TrialRecord]:
        """Return our records of a study's own Optuna trials, by number.

        Args:
            trials: All trials of the Optuna study; whichever has changed is another object.
        """
        changed = changed_places(self._trials, trials)
        self._trials = list(trials)
        self._records = [*self._records[: len(trials)], *[None] * (len(trials) - len(self._records))]
        for place in changed:
            self._records[place] = self._own_record(trials[place])

        return [record for record in self._records if record is not None]

    def _own_record(self, trial: optuna.trial.FrozenTrial) -> TrialRecord | None:
        attributes = TrialAttributes(trial)
        is_own = not attributes.passed_over and attributes.role != PRIOR
        return record_of(trial, self._budget) if is_own else None


def record_of(trial: optuna.trial.FrozenTrial, budget: BudgetSpec) -> TrialRecord:
    """Return our record of an Optuna trial.

    Args:
        trial: A trial of the search, of the finals or of longer runs.
        budget: The budget of the search that it belongs to.
    """
    from optuna.trial import TrialState

    attributes = TrialAttributes(trial)
    result = attributes.result

    unfinished = {TrialState.WAITING: TrialStatus.WAITING, TrialState.RUNNING: TrialStatus.RUNNING}
    ended = TrialStatus.INTERRUPTED if result is None else result.status
    history = trial.system_attrs.get("retry_history") or [None]

    # A trial that waits has no parameters in Optuna yet, and one of the finals never gets any.
    params = trial.params or attributes.params or trial.system_attrs.get("fixed_params", {})

    # A trial of the search that trains several seeds reports their final losses, under their count.
    has_seeds = budget.seeds > 1 and attributes.arm is None
    reported = {**trial.intermediate_values, **attributes.curve}
    values: dict[int, float] = {}
    seed_losses: list[float] = []
    if has_seeds:
        seed_losses = [loss for _, loss in sorted(reported.items())]
    else:
        values = _by_own_tokens(reported, attributes.budget_tokens, budget.tokens)

    return TrialRecord(
        number=trial.number,
        params=dict(params),
        status=unfinished.get(trial.state, ended),
        result=result,
        role=attributes.role,
        seed=attributes.seed,
        arm=attributes.arm,
        values=values,
        seed_losses=tuple(seed_losses),
        retry_of=history[-1],
        stage=attributes.stage,
        audited_at=attributes.audited_at,
        stopped_at=attributes.stopped_at,
        budget_tokens=attributes.budget_tokens,
        taken_from=attributes.taken_from,
        peer=attributes.peer,
        needs_bytes=attributes.needs_bytes,
    )


def _by_own_tokens(reported: Mapping[int, float], budget_tokens: int | None, baseline_tokens: int) -> dict[int, float]:
    """Return losses by a trial's own tokens from what it reported, which is by the baseline's at the same share."""
    if budget_tokens is None:
        return dict(reported)

    scale = budget_tokens / baseline_tokens
    return {round(tokens * scale): loss for tokens, loss in reported.items()}
