"""The noise between seeds, and verdicts that are looked at again and again without announcing it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from autotune.core.metric import TEXT_LOSS
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, VerdictWord
from autotune.core.study_results import Noise
from autotune.finals.power import measure_noise
from autotune.finals.verdict import (
    PROVE,
    SELECT,
    confidences,
    interval,
    judge,
    noise_runs,
    proving_runs,
)
from autotune.study.spec import FinalsSpec

BASELINE = TrialRecord(0, {"lr": 0.1}, TrialStatus.FINISHED, role="baseline")
WINNER = TrialRecord(5, {"lr": 0.2}, TrialStatus.FINISHED)


def run(arm: int, seed: int, loss: float, stage: str = PROVE) -> TrialRecord:
    result = TrialResult(TrialStatus.FINISHED, points=(EvalPoint(100, loss),))
    return TrialRecord(0, {}, TrialStatus.FINISHED, result, arm=arm, seed=seed, stage=stage)


@pytest.mark.parametrize(
    ("prove_seeds", "max_seeds", "looks"),
    [(4, 4, [4]), (4, 0, [4, 8, 16]), (4, 10, [4, 8, 10]), (2, 3, [2, 3]), (3, 100, [3, 6, 12, 24, 48, 96, 100])],
)
def test_looks_double_up_to_the_most(prove_seeds: int, max_seeds: int, looks: list[int]) -> None:
    assert FinalsSpec(prove_seeds=prove_seeds, max_seeds=max_seeds).looks == looks


def test_all_looks_together_keep_the_confidence() -> None:
    assert confidences(FinalsSpec(prove_seeds=4, max_seeds=4)) == [pytest.approx(0.95)]
    # Shares of 1, 2 and 4 sevenths of 5 %.
    assert confidences(FinalsSpec(prove_seeds=4)) == pytest.approx([1 - 0.05 / 7, 1 - 0.1 / 7, 1 - 0.2 / 7])


def test_the_baselines_runs_before_the_search_are_its_part_of_the_first_pairs() -> None:
    spec = FinalsSpec(select_seeds=2, prove_seeds=4)
    early = noise_runs(BASELINE, spec, search_seed=3, count=3)
    assert [(each.arm, each.seed, each.stage) for each in early] == [(0, seed, PROVE) for seed in (1005, 1006, 1007)]
    assert [each for each in proving_runs(BASELINE, WINNER, spec, 3, pairs=3) if each.arm == 0] == early


def test_a_later_look_only_adds_pairs() -> None:
    spec = FinalsSpec(prove_seeds=2)
    assert proving_runs(BASELINE, WINNER, spec, 1, 4)[:4] == proving_runs(BASELINE, WINNER, spec, 1, 2)


def test_noise_by_hand() -> None:
    """Losses 3.0, 3.2 and 3.1 have the standard deviation 0.1; runs of another stage or arm are not of it."""
    runs = [run(0, 1, 3.0), run(0, 2, 3.2), run(0, 3, 3.1), run(5, 1, 9.0), run(0, 4, 9.0, SELECT)]
    noise = measure_noise(0, runs, FinalsSpec(prove_seeds=4, max_seeds=4))
    assert noise is not None
    # t(0.975, 3) = 3.1824 and t(0.8, 3) = 0.9785, times 0.1 times the root of 2 / 4.
    assert noise == Noise(pytest.approx(0.1), 3, pytest.approx(3.1), 4, pytest.approx(0.29422, abs=1e-5))
    assert noise.describe(TEXT_LOSS) == (
        "noise: across 3 seeds the default's loss has a standard deviation of 0.1000; "
        "4 pairs of runs, the most that may be trained, can prove a gain of 0.2942 (9.5 %) or more"
    )
    assert measure_noise(0, runs[:1], FinalsSpec()) is None


def test_a_gain_called_provable_is_proved_four_times_in_five() -> None:
    spec, random = FinalsSpec(prove_seeds=8, max_seeds=8), np.random.default_rng(3)
    sigma = 0.02
    quantiles = stats.t.ppf(0.975, 7) + stats.t.ppf(0.8, 7)
    gain = quantiles * sigma * (2 / 8) ** 0.5
    noise = measure_noise(0, [run(0, 1, 3.0), run(0, 2, 3.0 + sigma * 2**0.5)], spec)
    assert noise is not None and noise.provable_gain == pytest.approx(gain)
    proved = [study(random, spec, gain, sigma).word is VerdictWord.BETTER for _ in range(1_000)]
    # The approximation by shifted t quantiles is a little careful.
    assert 0.76 <= np.mean(proved) <= 0.88


def study(random: np.random.Generator, spec: FinalsSpec, gain: float, sigma: float = 0.02) -> Any:
    """Pairs of independent losses, looked at until they decide."""
    runs: list[TrialRecord] = []
    verdict = None
    for look, pairs in enumerate(spec.looks):
        for seed in range(len(runs) // 2, pairs):
            runs += [run(0, seed, 3.0 + sigma * random.standard_normal())]
            runs += [run(5, seed, 3.0 - gain + sigma * random.standard_normal())]
        verdict = judge(BASELINE, WINNER, runs, spec, look)
        if verdict.word is not VerdictWord.INCONCLUSIVE:
            break
    return verdict


def test_looking_often_calls_equal_settings_better_no_more_often() -> None:
    random = np.random.default_rng(5)
    spec = FinalsSpec(prove_seeds=4, min_gain_frac=0.0001)  # so small that nothing but a gain ends it early
    words = [study(random, spec, gain=0.0).word for _ in range(2_000)]
    better = words.count(VerdictWord.BETTER) / len(words)
    # One side of 5 %, which the union bound does not use up; zero would be a test that cannot fail.
    assert 0.004 < better <= 0.025


def test_plain_intervals_looked_at_three_times_would_announce_noise() -> None:
    """What the shares are for: the same looks without them err more often than one 95 % interval may."""
    random = np.random.default_rng(5)
    wrong = 0
    for _ in range(2_000):
        gains = 0.02 * 2**0.5 * random.standard_normal(16)
        lows = [interval(gains[:pairs].tolist())[0] for pairs in FinalsSpec(prove_seeds=4).looks]
        wrong += any(low is not None and low > 0 for low in lows)
    assert wrong / 2_000 > 0.03


def test_the_interval_of_the_look_that_decides_covers_the_true_gain() -> None:
    random = np.random.default_rng(6)
    spec = FinalsSpec(prove_seeds=4, min_gain_frac=0.001)
    verdicts = [study(random, spec, gain=0.02) for _ in range(2_000)]
    covered = np.mean([verdict.gain_low <= 0.02 <= verdict.gain_high for verdict in verdicts])
    assert covered >= 0.94


def test_a_most_below_the_first_look_is_refused() -> None:
    with pytest.raises(ValueError, match="max_seeds 3 is below prove_seeds 4; raise it"):
        FinalsSpec(prove_seeds=4, max_seeds=3)
