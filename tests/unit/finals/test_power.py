"""How many pairs a gain needs, checked against what `judge` decides on simulated losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import study_builder

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, VerdictWord
from autotune.finals.power import MOST_PAIRS, pairs_needed, pairs_to_settle, provable_gain
from autotune.finals.verdict import PROVE, judge
from autotune.study.spec import FinalsSpec

BASELINE = TrialRecord(0, {"lr": 0.1}, TrialStatus.FINISHED, role="baseline")
WINNER = TrialRecord(5, {"lr": 0.2}, TrialStatus.FINISHED)
# The gain worth having is so small that nothing ends the finals but a proof or their last look.
FINALS: dict[str, Any] = {"min_gain_frac": 0.0001}


def run(arm: int, seed: int, loss: float) -> TrialRecord:
    result = TrialResult(TrialStatus.FINISHED, points=(EvalPoint(100, loss),))
    return TrialRecord(0, {}, TrialStatus.FINISHED, result, arm=arm, seed=seed, stage=PROVE)


def is_proved(random: np.random.Generator, spec: FinalsSpec, gain: float, sigma: float) -> bool:
    """Whether finals with a true gain come to the word "better", looked at as often as the study would look."""
    runs: list[TrialRecord] = []
    for look, pairs in enumerate(spec.looks):
        for seed in range(len(runs) // 2, pairs):
            runs += [run(0, seed, 3.0 + sigma * random.standard_normal())]
            runs += [run(5, seed, 3.0 - gain + sigma * random.standard_normal())]
        word = judge(BASELINE, WINNER, runs, spec, look).word
        if word is not VerdictWord.INCONCLUSIVE:
            return word is VerdictWord.BETTER

    return False


@pytest.mark.parametrize(("prove_seeds", "gain"), [(4, 0.03), (4, 0.017), (2, 0.03), (3, 0.02)])
def test_the_pairs_advised_prove_the_gain_four_times_in_five(prove_seeds: int, gain: float) -> None:
    sigma = 0.02
    pairs = pairs_needed(gain, 2**0.5 * sigma, FinalsSpec(prove_seeds=prove_seeds, **FINALS))
    assert pairs is not None and len(FinalsSpec(prove_seeds=prove_seeds, max_seeds=pairs).looks) > 1
    spec, random = FinalsSpec(prove_seeds=prove_seeds, max_seeds=pairs, **FINALS), np.random.default_rng(7)

    proved = np.mean([is_proved(random, spec, gain, sigma) for _ in range(600)])

    # The looks before the last one add a little; 600 studies scatter by 0.016.
    assert 0.77 <= proved <= 0.88
    fewer = FinalsSpec(prove_seeds=prove_seeds, max_seeds=max(prove_seeds, pairs // 2), **FINALS)
    assert np.mean([is_proved(random, fewer, gain, sigma) for _ in range(300)]) < 0.7


def test_a_one_sided_test_of_one_look_would_ask_for_too_few() -> None:
    """12.4 (sigma / gain)^2, which a report once advised, is 17 pairs here: they prove such a gain too seldom."""
    sigma, gain = 0.02, 0.0171
    one_sided = round(12.4 * (sigma / gain) ** 2)
    spec, random = FinalsSpec(prove_seeds=4, max_seeds=one_sided, **FINALS), np.random.default_rng(8)
    assert one_sided == 17
    assert np.mean([is_proved(random, spec, gain, sigma) for _ in range(600)]) < 0.72


def test_more_noise_or_a_smaller_gain_needs_more_pairs() -> None:
    spec = FinalsSpec(prove_seeds=4)
    needed = [pairs_needed(0.01, sigma, spec) for sigma in (0.005, 0.01, 0.02)]
    assert needed == sorted(needed) and needed[0] < needed[-1]
    assert pairs_needed(0.01, 0.0001, spec) == 4, "never fewer than the first look"
    for pairs in needed:
        assert provable_gain(0.005, FinalsSpec(prove_seeds=4, max_seeds=pairs)) <= 0.01


def test_no_number_of_pairs_proves_a_loss_or_next_to_nothing() -> None:
    assert pairs_needed(0.0, 0.01, FinalsSpec()) is None
    assert pairs_needed(-0.1, 0.01, FinalsSpec()) is None
    assert pairs_needed(0.01 / MOST_PAIRS, 0.01, FinalsSpec()) is None


def test_what_settles_a_study_is_more_than_it_has_trained() -> None:
    night = study_builder.study()
    # Gains of 0.37 to 0.39 on three pairs: three would do, and are there.
    assert pairs_to_settle(0, 6, night.finals, night.spec.finals) == 4
    assert pairs_to_settle(0, 6, night.finals[:4], night.spec.finals) is None, "one pair says nothing about noise"
    assert pairs_to_settle(6, 0, night.finals, night.spec.finals) is None, "a loss is no gain"


def test_a_gain_too_small_to_be_worth_having_is_settled_once_one_that_is_would_show() -> None:
    gains = (-0.019, 0.0, 0.02)
    runs = [run(0, seed, 3.0) for seed in range(3)] + [run(5, seed, 3.0 - gain) for seed, gain in enumerate(gains)]
    spec = FinalsSpec(prove_seeds=3, min_gain_frac=0.01)
    assert pairs_to_settle(0, 5, runs, spec) == pairs_needed(0.03, float(np.std(gains, ddof=1)), spec)


def test_of_what_is_maximised_a_gain_too_small_is_settled_alike() -> None:
    """Its losses are below zero, and what is worth having is a share of their size."""
    gains = (-0.019, 0.0, 0.02)
    runs = [run(0, seed, -3.0) for seed in range(3)] + [run(5, seed, -3.0 - gain) for seed, gain in enumerate(gains)]
    spec = FinalsSpec(prove_seeds=3, min_gain_frac=0.01)
    assert pairs_to_settle(0, 5, runs, spec) == pairs_needed(0.03, float(np.std(gains, ddof=1)), spec)
