"""Whole simulated studies: what counts as a false win, and searches that end in one verdict or another."""

from __future__ import annotations

import bench_verdict
from bench_verdict import Outcome
from recorded_tables import bowl_table

from autotune.core.records import Verdict, VerdictWord


def outcome(word: VerdictWord, gain: float, interval: tuple[float | None, float | None] = (None, None)) -> Outcome:
    low, high = interval
    return Outcome(Verdict(word, "", gain_low=low, gain_high=high), gain, 10)


def test_a_win_is_false_only_if_nothing_was_gained() -> None:
    assert outcome(VerdictWord.BETTER, 0.0).is_false_win
    assert outcome(VerdictWord.BETTER, -0.1).is_false_win
    assert not outcome(VerdictWord.BETTER, 0.1).is_false_win
    assert not outcome(VerdictWord.NO_CLEAR_GAIN, 0.0).is_false_win


def test_an_interval_covers_what_lies_in_it() -> None:
    assert outcome(VerdictWord.BETTER, 0.1, (0.1, 0.3)).is_covered
    assert not outcome(VerdictWord.BETTER, 0.4, (0.1, 0.3)).is_covered
    assert not outcome(VerdictWord.INCONCLUSIVE, 0.0).is_covered


def test_shares_are_told_with_the_interval_of_a_binomial() -> None:
    """Clopper and Pearson's of 1 in 20: 0.1 to 24.9 %."""
    outcomes = [outcome(VerdictWord.BETTER, 0.1, (0.0, 0.2))] * 19 + [outcome(VerdictWord.BETTER, 0.0, (0.1, 0.2))]
    assert bench_verdict.line("real", outcomes) == "| real | 10 | 20 of 20 | 5.0% (0.1%-24.9%) | 95.0% (75.1%-99.9%) |"


def test_a_study_of_equal_settings_gains_nothing_and_one_of_a_bowl_does() -> None:
    """The bowl's losses differ by whole nats, so that noise of a hundredth hides nothing."""
    table = bowl_table(60)
    equal = bench_verdict.simulated(bench_verdict.same_settings(table), 10, 0.01, 0)
    assert equal.gain == 0 and equal.verdict.word is not VerdictWord.BETTER

    real = bench_verdict.simulated(table, 10, 0.01, 0)
    assert real.gain > 0 and real.verdict.word is VerdictWord.BETTER and not real.is_false_win
