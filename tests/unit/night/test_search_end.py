"""When a search is called done before its trials are."""

from __future__ import annotations

import random
import statistics

import pytest

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.night.search_end import MIN_TRIALS, late_gain


def trial(number: int, loss: float, status: TrialStatus = TrialStatus.FINISHED, tokens: int = 100) -> TrialRecord:
    return TrialRecord(number, {}, status, TrialResult(status, points=(EvalPoint(tokens, loss),)))


def trials_of(*losses: float) -> list[TrialRecord]:
    return [trial(number, loss) for number, loss in enumerate(losses)]


def test_it_is_what_the_later_half_gained() -> None:
    half = MIN_TRIALS // 2
    assert late_gain(trials_of(*[3.0] * half, *[2.9] * half)) == pytest.approx(0.1)
    assert late_gain(trials_of(2.5, *[3.0] * (MIN_TRIALS - 1))) == 0.0


def test_a_few_trials_say_nothing() -> None:
    assert late_gain(trials_of(*[3.0] * (MIN_TRIALS - 1))) is None
    assert late_gain([]) is None


def test_stopped_trials_count_as_tried_and_interrupted_ones_do_not() -> None:
    half = MIN_TRIALS // 2
    stopped = [trial(number, 5.0, TrialStatus.PRUNED) for number in range(1, half)]
    later = [trial(half + number, 2.8) for number in range(half)]
    assert late_gain([trial(0, 3.0), *stopped, *later]) == pytest.approx(0.2)
    cut = [trial(number, 2.8, TrialStatus.INTERRUPTED) for number in range(half)]
    assert late_gain([trial(0, 3.0), *stopped, *cut]) is None
    assert late_gain([*stopped, *stopped[:1], *later]) is None, "nothing of the first half finished"


def test_halves_are_those_of_the_training_not_of_the_count() -> None:
    """Four whole trials, and 30 stopped ones that together trained nearly as long."""
    whole = [trial(number, loss) for number, loss in enumerate((3.0, 2.9, 2.95, 2.97))]
    stopped = [trial(4 + number, 5.0, TrialStatus.PRUNED, tokens=10) for number in range(30)]
    better = trial(34, 2.7)
    assert late_gain([*whole, *stopped, better]) == pytest.approx(0.2)
    assert late_gain([*whole, better, *stopped]) == pytest.approx(0.2)
    assert late_gain([whole[0], better, *whole[1:3], *stopped]) == pytest.approx(0.0)


@pytest.mark.parametrize("draw", [lambda: random.uniform(3, 4), lambda: 3 + random.expovariate(1) ** 2])
def test_as_many_trials_again_gain_no_more_on_average(draw: object) -> None:
    """Losses with a lower bound, drawn at random: what 48 more trials gain after 48, against the bound."""
    random.seed(1)
    assert callable(draw)
    bounds, gains = [], []
    for _ in range(400):
        losses = [draw() for _ in range(96)]
        bound = late_gain(trials_of(*losses[:48]))
        assert bound is not None
        bounds.append(bound)
        gains.append(min(losses[:48]) - min(losses))
    assert statistics.mean(gains) <= statistics.mean(bounds)
