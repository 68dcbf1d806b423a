"""Properties of the verdict: it looks at pairs alone, in no order, and agrees with scipy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, VerdictWord
from autotune.finals.verdict import PROVE, interval, judge
from autotune.study.spec import FinalsSpec

LOSSES = st.floats(0.5, 10.0).map(lambda loss: round(loss, 4))
PAIRS = st.lists(st.tuples(LOSSES, LOSSES), min_size=2, max_size=8)


def trial(number: int, loss: float, arm: int | None = None, seed: int = 0) -> TrialRecord:
    result = TrialResult(TrialStatus.FINISHED, points=(EvalPoint(100, loss),))
    return TrialRecord(number, {}, TrialStatus.FINISHED, result, arm=arm, seed=seed, stage=PROVE)


BASELINE, WINNER = trial(0, 3.0), trial(5, 2.9)


def finals(pairs: list[tuple[float, float]]) -> list[TrialRecord]:
    return [
        trial(2 * seed + side, loss, arm=(0, 5)[side], seed=seed)
        for seed, pair in enumerate(pairs)
        for side, loss in enumerate(pair)
    ]


@settings(deadline=None)
@given(pairs=PAIRS)
def test_the_interval_agrees_with_scipy(pairs: list[tuple[float, float]]) -> None:
    gains = [base - best for base, best in pairs]
    low, high = interval(gains)
    if max(gains) - min(gains) < 1e-9:
        assert low == pytest.approx(gains[0])
        assert high == pytest.approx(gains[0])
        return
    expected = stats.ttest_1samp(gains, 0.0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))


@settings(deadline=None)
@given(pairs=PAIRS, data=st.data())
def test_the_order_of_the_runs_does_not_matter(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    runs = finals(pairs)
    shuffled = data.draw(st.permutations(runs))
    assert judge(BASELINE, WINNER, shuffled, FinalsSpec()) == judge(BASELINE, WINNER, runs, FinalsSpec())


@settings(deadline=None)
@given(pairs=PAIRS, lonely=LOSSES)
def test_a_run_without_its_partner_changes_nothing(pairs: list[tuple[float, float]], lonely: float) -> None:
    runs = finals(pairs)
    alone = [trial(99, lonely, arm=0, seed=999), trial(98, lonely, arm=5, seed=998), trial(97, lonely, arm=7, seed=0)]
    assert judge(BASELINE, WINNER, runs + alone, FinalsSpec()) == judge(BASELINE, WINNER, runs, FinalsSpec())


@settings(deadline=None)
@given(pairs=PAIRS)
def test_better_means_that_the_whole_interval_is_a_gain(pairs: list[tuple[float, float]]) -> None:
    verdict = judge(BASELINE, WINNER, finals(pairs), FinalsSpec())
    assert verdict.gain_low is not None
    says_something_of_chance = any(len({pair[side] for pair in pairs}) > 1 for side in (0, 1))
    assert (verdict.word is VerdictWord.BETTER) == (verdict.gain_low > 0 and says_something_of_chance)
    swapped = judge(BASELINE, WINNER, finals([(best, base) for base, best in pairs]), FinalsSpec())
    assert not verdict.word is swapped.word is VerdictWord.BETTER
