"""Properties of what is kept from look to look: it equals what is made from scratch, whatever has changed between."""

from __future__ import annotations

from typing import Any

import optuna
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from autotune.core.attributes import PRIOR
from autotune.core.records import EvalPoint, TrialResult, TrialStatus
from autotune.search.untried import Tried
from autotune.store.trial_records import KnownRecords, own_records
from autotune.study.spec import BudgetSpec

SEED = 1
BUDGET = BudgetSpec(tokens=1_000, trials=20)
SETTINGS = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 1))
RESULT = TrialResult(TrialStatus.FINISHED, points=(EvalPoint(1_000, 2.0),)).to_json()
ATTRIBUTES = st.fixed_dictionaries(
    {"role": st.sampled_from(["search", PRIOR])},
    optional={"passed_over": st.booleans(), "seed": st.just(SEED), "result": st.just(RESULT)},
)
STATES = st.sampled_from([TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE])
EDITS = st.lists(st.tuples(st.integers(0, 9), STATES, SETTINGS, ATTRIBUTES, st.booleans()), max_size=12)


def trial(number: int, state: TrialState, params: dict[str, int], attributes: dict[str, Any]) -> FrozenTrial:
    created = optuna.trial.create_trial(
        state=state,
        value=2.0 if state is TrialState.COMPLETE else None,
        params=params,
        distributions={path: IntDistribution(0, 1) for path in params},
        user_attrs=attributes,
    )
    created.number = number
    return created


@given(EDITS)
def test_what_is_kept_equals_what_is_made_from_scratch(edits: list[Any]) -> None:
    trials: list[FrozenTrial] = []
    known, tried = KnownRecords(BUDGET), Tried(SEED)

    for place, state, params, attributes, is_looked_at in edits:
        number = min(place, len(trials))
        # What an earlier study has tried never changes.
        is_prior = number < len(trials) and trials[number].user_attrs["role"] == PRIOR
        if not is_prior:
            trials[number : number + 1] = [trial(number, state, params, attributes)]
        if not is_looked_at:
            continue

        fresh = Tried(SEED)
        fresh.see(trials)
        tried.see(trials)
        assert known.own(trials) == own_records(trials, BUDGET)
        for settings in ({"a": 0}, {"a": 0, "b": 1}, params):
            assert tried.has(settings, but=number) == fresh.has(settings, but=number)
            assert tried.number(settings, but=number) == fresh.number(settings, but=number)
            others = [each.number for each in trials if each.number != number and each.params == settings and settings]
            own = [each for each in others if trials[each].user_attrs["role"] != PRIOR]
            begun = [each for each in own if trials[each].state is not TrialState.WAITING]
            assert tried.number(settings, but=number) == (begun[0] if begun else None)
