"""Properties of what trials are judged by: grids meet whatever the budgets are, and fronts hold what they promise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autotune.core.objectives import comparable_tokens, pareto_front
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus

FEW = st.integers(1, 6)


@given(st.data(), st.integers(1, 60), st.integers(1, 10**12))
def test_the_same_share_of_any_budget_is_the_same_place(data: st.DataObject, evaluations: int, baseline: int) -> None:
    budget = data.draw(st.integers(4 * evaluations**2, 10**12))
    for number in range(1, evaluations + 1):
        seen = budget * number // evaluations
        assert comparable_tokens(seen, budget, baseline) == baseline * number // evaluations


@given(st.integers(1, 10**6), st.integers(1, 10**9), st.data())
def test_places_ascend_and_end_with_the_budget(budget: int, baseline: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, budget))
    second = data.draw(st.integers(first, budget))
    places = [comparable_tokens(seen, budget, baseline) for seen in (first, second, budget)]
    assert places == sorted(places)
    assert places[-1] == baseline


@given(st.lists(st.tuples(FEW, FEW), max_size=12))
def test_fronts(found: list[tuple[int, int]]) -> None:
    trials = [_trial(number, *values) for number, values in enumerate(found)]
    front = [found[trial.number] for trial in pareto_front(trials)]
    assert front == sorted(front)
    for values in found:
        beaten_by = [other for other in found if other != values and all(map(int.__le__, other, values))]
        assert front.count(values) == (not beaten_by)


def _trial(number: int, loss: int, seconds: int) -> TrialRecord:
    result = TrialResult(TrialStatus.FINISHED, points=(EvalPoint(1, loss),), seconds=seconds)
    return TrialRecord(number, {}, TrialStatus.FINISHED, result)
