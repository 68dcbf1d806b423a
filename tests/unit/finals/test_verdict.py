"""The finals: who takes part, on which seeds, and what the pairs prove."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, VerdictWord
from autotune.finals.verdict import (
    PROVE,
    SELECT,
    choose_winner,
    finalists,
    interval,
    judge,
    proving_runs,
    ranked,
    selection_runs,
)
from autotune.study.spec import FinalsSpec

SPEC = FinalsSpec(finalists=2, select_seeds=1, prove_seeds=4, max_seeds=4, min_gain_frac=0.01)


def trial(number: int, loss: float | None, status: TrialStatus = TrialStatus.FINISHED, **changes: Any) -> TrialRecord:
    """A trial; with a loss of None it has no point."""
    points = () if loss is None else (EvalPoint(50, 9.0), EvalPoint(100, loss, {"val_accuracy": loss / 10}))
    changes.setdefault("params", {"lr": number / 10})
    return TrialRecord(number=number, status=status, result=TrialResult(status, points=points), **changes)


BASELINE, WINNER = trial(0, 3.0, role="baseline"), trial(5, 2.9)


def proving(baseline: list[float | None], winner: list[float | None]) -> list[TrialRecord]:
    """The proving runs of the two arms, by seed; None for one that diverged."""
    runs = []
    for arm, losses in ((0, baseline), (5, winner)):
        for seed, loss in enumerate(losses, start=1002):
            status = TrialStatus.DIVERGED if loss is None else TrialStatus.FINISHED
            runs.append(trial(len(runs), loss, status, arm=arm, seed=seed, stage=PROVE))
    return runs


# --- who takes part ---


def test_ranked_leaves_out_what_did_not_finish() -> None:
    trials = [trial(0, 3.0), trial(1, 1.0, TrialStatus.PRUNED), trial(2, 2.0), trial(3, None, TrialStatus.RUNNING)]
    assert [trial.number for trial in ranked(trials)] == [2, 0]


def test_finalists_are_the_best_of_distinct_settings_other_than_the_baselines() -> None:
    trials = [
        BASELINE,
        trial(1, 2.5, params={"lr": 0.2}),
        trial(2, 2.4, params={"lr": 0.3}),
        trial(3, 2.3, params={"lr": 0.3}),
        trial(4, 2.0, params=dict(BASELINE.params)),
        trial(5, 2.9, params={"lr": 0.4}),
    ]
    assert [trial.number for trial in finalists(trials, BASELINE, 2)] == [3, 1]
    assert [trial.number for trial in finalists(trials, BASELINE, 9)] == [3, 1, 5]
    assert finalists(trials[:1], BASELINE, 2) == []


def test_selection_seeds_and_arms_by_hand() -> None:
    runs = selection_runs([WINNER, trial(7, 2.95)], FinalsSpec(select_seeds=2), search_seed=3)
    assert [(run.arm, run.seed, run.stage) for run in runs] == [
        (5, 1003, SELECT),
        (7, 1003, SELECT),
        (5, 1004, SELECT),
        (7, 1004, SELECT),
    ]
    assert selection_runs([WINNER], SPEC, 3) == []


def test_proving_runs_come_in_whole_pairs() -> None:
    runs = proving_runs(BASELINE, WINNER, FinalsSpec(select_seeds=2, prove_seeds=2), search_seed=3, pairs=2)
    assert [(run.arm, run.seed) for run in runs] == [(0, 1005), (5, 1005), (0, 1006), (5, 1006)]
    assert {run.stage for run in runs} == {PROVE}


@pytest.mark.parametrize("search_seed", [0, 1, 17, 999, 1000])
@pytest.mark.parametrize("seeds", [1, 3, 8])
def test_no_seed_plays_two_roles(search_seed: int, seeds: int) -> None:
    spec = FinalsSpec(select_seeds=seeds, prove_seeds=seeds + 1)
    select = {run.seed for run in selection_runs([WINNER, trial(7, 2.95)], spec, search_seed)}
    prove = {run.seed for run in proving_runs(BASELINE, WINNER, spec, search_seed, spec.prove_seeds)}
    assert (len(select), len(prove)) == (seeds, seeds + 1)
    assert not select & prove
    assert search_seed not in select | prove


def test_the_winner_has_the_lowest_mean_on_the_selection_seeds() -> None:
    arms = [trial(5, 2.0), trial(7, 2.1), trial(8, 2.2)]
    finals = [
        trial(0, 2.0, arm=5, stage=SELECT),
        trial(1, 2.6, arm=5, stage=SELECT),
        trial(2, 2.2, arm=7, stage=SELECT),
        trial(3, 2.3, arm=7, stage=SELECT),
        trial(4, None, TrialStatus.DIVERGED, arm=8, stage=SELECT),
        trial(5, 0.1, arm=5, stage=PROVE),
    ]
    assert choose_winner(arms, finals).number == 7
    assert choose_winner(arms, []).number == 5
    assert choose_winner(arms, finals[4:]).number == 5


# --- the verdict ---


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    baseline, winner = [3.01, 2.98, 3.05, 3.00], [2.90, 2.93, 2.91, 2.95]
    expected = stats.ttest_rel(baseline, winner).confidence_interval(0.95)
    verdict = judge(BASELINE, WINNER, proving(baseline, winner), SPEC)
    assert (verdict.gain_low, verdict.gain_high) == pytest.approx((expected.low, expected.high))
    # By hand: differences 0.11 0.05 0.14 0.05 with mean 0.0875, sums of the losses 12.04 and 11.69.
    assert verdict.gain == pytest.approx(0.0875)
    assert verdict.baseline_loss == pytest.approx(3.01)
    assert verdict.winner_loss == pytest.approx(2.9225)
    assert verdict.min_gain == pytest.approx(0.0301)
    assert verdict.sigma == pytest.approx(np.std(baseline, ddof=1))
    assert verdict.word is VerdictWord.BETTER
    assert verdict.seeds == (1002, 1003, 1004, 1005)
    assert verdict.baseline_metrics == pytest.approx({"val_accuracy": 0.301})
    assert verdict.winner_metrics == pytest.approx({"val_accuracy": 0.29225})


def test_student_by_hand() -> None:
    # t(0.975, 1) = 12.7062; two differences 1 and 3: mean 2, standard error 1.
    assert interval([1.0, 3.0]) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)
    assert interval([1.0]) == interval([]) == (None, None)
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ([0.10, 0.11, 0.09, 0.10], VerdictWord.BETTER),
        ([0.0, 0.0, 0.0, 0.0], VerdictWord.NO_CLEAR_GAIN),
        ([-0.10, -0.11, -0.09, -0.10], VerdictWord.NO_CLEAR_GAIN),
        ([0.001, -0.001, 0.002, -0.002], VerdictWord.NO_CLEAR_GAIN),
        ([0.2, -0.1, 0.1, 0.0], VerdictWord.INCONCLUSIVE),
        # A proven gain counts as one however small it is.
        ([0.001, 0.001, 0.001, 0.001], VerdictWord.BETTER),
    ],
)
def test_words(gains: list[float], word: VerdictWord) -> None:
    of_the_default = [3.0, 3.02, 2.99, 3.01]
    winners = [loss - gain for loss, gain in zip(of_the_default, gains, strict=True)]
    verdict = judge(BASELINE, WINNER, proving(of_the_default, winners), SPEC)
    assert verdict.word is word


def test_losses_that_no_seed_changes_prove_nothing() -> None:
    verdict = judge(BASELINE, WINNER, proving([3.0] * 4, [2.0] * 4), SPEC)
    assert (verdict.word, verdict.gain) == (VerdictWord.INCONCLUSIVE, 1.0)
    assert verdict.reason == "every seed gave the same result, so the runs say nothing of chance"


@pytest.mark.parametrize(("share", "word"), [(0.99, VerdictWord.INCONCLUSIVE), (1.01, VerdictWord.NO_CLEAR_GAIN)])
def test_no_clear_gain_begins_where_the_interval_ends_below_what_is_worth_having(
    share: float, word: VerdictWord
) -> None:
    gains = [0.02, -0.02, 0.01, -0.01]
    _, high = interval(gains)
    assert high is not None
    spec = FinalsSpec(max_seeds=4, min_gain_frac=high * share / 3.0)
    assert judge(BASELINE, WINNER, proving([3.0] * 4, [3.0 - gain for gain in gains]), spec).word is word


def test_a_winner_that_fails_on_a_seed_cannot_be_relied_on() -> None:
    verdict = judge(BASELINE, WINNER, proving([3.0] * 4, [2.0, 2.0, None, 2.0]), SPEC)
    assert verdict.word is VerdictWord.INCONCLUSIVE
    assert "failed on 1 of its fresh seeds" in verdict.reason
    assert verdict.seeds == (1002, 1003, 1005)


def test_a_baseline_that_fails_on_a_seed_only_loses_the_pair() -> None:
    verdict = judge(BASELINE, WINNER, proving([3.0, None, 3.1, 3.0], [2.0] * 4), SPEC)
    assert (verdict.word, verdict.seeds) == (VerdictWord.BETTER, (1002, 1004, 1005))


def test_one_pair_proves_nothing() -> None:
    verdict = judge(BASELINE, WINNER, proving([3.0], [2.0]), SPEC)
    assert verdict.word is VerdictWord.INCONCLUSIVE
    assert (verdict.gain, verdict.gain_low, verdict.gain_high, verdict.sigma) == (1.0, None, None, None)


def test_no_pair_is_said_as_such() -> None:
    for finals in ([], proving([3.0, None], [None, 2.0])):
        verdict = judge(BASELINE, WINNER, finals, SPEC)
        assert verdict.word is VerdictWord.INCONCLUSIVE
        assert (verdict.seeds, verdict.gain, verdict.winner) == ((), None, 5)


def test_selection_runs_do_not_count_as_proof() -> None:
    finals = [trial(9, 1.0, arm=arm, seed=seed, stage=SELECT) for arm in (0, 5) for seed in (1, 2, 3)]
    assert judge(BASELINE, WINNER, finals, SPEC).seeds == ()


# --- the rate of errors ---


def simulated_study(random: np.random.Generator, gain: float, finalists_count: int = 8) -> Any:
    """Finals of arms that all lie `gain` below the baseline; a seed's luck is shared by the arms."""
    sigma, seeds = 0.02, 4
    spec = FinalsSpec(finalists=finalists_count, select_seeds=1, prove_seeds=seeds, max_seeds=seeds)
    arms = [trial(number, loss) for number, loss in enumerate(2.9 + sigma * random.standard_normal(finalists_count), 1)]
    select = [trial(0, 3 + sigma * random.standard_normal(), arm=arm.number, stage=SELECT) for arm in arms]
    winner = choose_winner(arms, select)
    shared = sigma * random.standard_normal(seeds)
    finals = []
    for arm, mean in ((0, 3.0), (winner.number, 3.0 - gain)):
        losses = mean + shared + sigma * random.standard_normal(seeds)
        finals += [trial(0, loss, arm=arm, seed=seed, stage=PROVE) for seed, loss in enumerate(losses)]
    return judge(BASELINE, winner, finals, spec)


def test_equal_settings_are_called_better_in_at_most_one_study_of_twenty() -> None:
    random = np.random.default_rng(7)
    verdicts = [simulated_study(random, gain=0.0) for _ in range(2_000)]
    better = sum(verdict.word is VerdictWord.BETTER for verdict in verdicts) / len(verdicts)
    # One side of a 95 % interval: 2.5 %, give or take three standard errors of 0.35 %.
    assert 0.01 < better <= 0.036


def test_the_interval_covers_the_true_gain_in_nineteen_of_twenty_studies() -> None:
    random = np.random.default_rng(11)
    verdicts = [simulated_study(random, gain=0.03) for _ in range(2_000)]
    covered = sum(verdict.gain_low <= 0.03 <= verdict.gain_high for verdict in verdicts) / len(verdicts)
    assert covered == pytest.approx(0.95, abs=0.015)
