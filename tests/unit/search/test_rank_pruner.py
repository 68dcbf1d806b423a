"""The pruner that stops by rank: how low a rank may be, when it is asked, and what it learns from a study."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from autotune.search.rank_pruner import RankPruner, expected_correlation, kept_share

BUDGET = 3_200


def study_of(curves: list[dict[int, float]], direction: str = "minimize", **options: float) -> optuna.Study:
    """A study with finished trials of these curves."""
    study = optuna.create_study(direction=direction, pruner=RankPruner(BUDGET, **options))
    for curve in curves:
        trial = study.ask()
        for tokens, loss in curve.items():
            trial.report(loss, step=tokens)
        study.tell(trial, curve[max(curve)])
    return study


def is_stopped(study: optuna.Study, curve: dict[int, float]) -> list[bool]:
    trial = study.ask()
    answers = []
    for tokens, loss in curve.items():
        trial.report(loss, step=tokens)
        answers.append(trial.should_prune())
    return answers


@pytest.mark.parametrize(("correlation", "lost_frac"), [(0.3, 0.05), (0.6, 0.05), (0.6, 0.2), (0.9, 0.1)])
def test_the_share_kept_loses_as_many_of_the_best_tenth_as_was_said(correlation: float, lost_frac: float) -> None:
    """A million pairs of normal scores: the cut of early ranks stops that share of those that end in the best tenth."""
    random = np.random.default_rng(0)
    final = random.standard_normal(1_000_000)
    early = correlation * final + np.sqrt(1 - correlation**2) * random.standard_normal(len(final))
    kept = early <= np.quantile(early, kept_share(correlation, lost_frac))
    best = final <= np.quantile(final, 0.1)
    assert 1 - kept[best].mean() == pytest.approx(lost_frac, abs=0.015)


def test_where_ranks_tell_nothing_next_to_all_are_kept_and_where_they_tell_all_only_the_best() -> None:
    assert kept_share(0.0, 0.05) == pytest.approx(0.95)
    assert kept_share(-0.5, 0.05) > 0.98
    assert kept_share(1.0, 0.05) < 0.15


def test_few_trials_count_for_what_other_studies_had() -> None:
    assert expected_correlation([], 1.0) == pytest.approx(np.tanh(2.2))
    assert expected_correlation([[1.0, 2.0]] * 3, 0.1) == pytest.approx(np.tanh(2.2 + 0.43 * np.log(0.1)))
    assert expected_correlation([], 0.03) < expected_correlation([], 0.3)


def test_a_study_whose_curves_cross_outweighs_that_by_and_by() -> None:
    """Ranks that are turned around: with seven trials as many count as four of other studies, with 23 they decide."""
    crossing = [[float(place), -float(place)] for place in range(23)]
    mean_z = (2.2 + 0.43 * np.log(0.25) + np.arctanh(-0.99)) / 2
    assert expected_correlation(crossing[:7], 0.25) == pytest.approx(np.tanh(mean_z))
    assert expected_correlation(crossing, 0.25) < -0.95


def test_a_low_rank_is_stopped_at_a_check_and_nowhere_else() -> None:
    """Of 20 trials that keep their ranks, the 21st is last; it is judged at 100, 200, 400, 800 and 1600 tokens."""
    steps = (50, 100, 150, 250, 300, 1_600, 3_200)
    study = study_of([{step: 4.0 + place - step / BUDGET for step in steps} for place in range(20)])
    answers = is_stopped(study, dict.fromkeys(steps, 30.0))
    assert dict(zip(steps, answers, strict=True)) == {
        50: False, 100: True, 150: False, 250: True, 300: False, 1_600: True, 3_200: False,
    }  # fmt: skip


def test_one_more_than_the_share_is_kept() -> None:
    """At a half, with a correlation of 0.98, a fifth of 11 trials is kept and one more: the first four."""
    curves = [{1_600: 4.0 + place, 3_200: 3.0 + place} for place in range(10)]
    answers = [is_stopped(study_of(curves), {1_600: 3.5 + place}) for place in range(5)]
    assert answers == [[False], [False], [False], [False], [True]]


def test_nothing_is_stopped_where_early_ranks_were_wrong() -> None:
    study = study_of([{400: 4.0 + place, 3_200: 4.0 - place} for place in range(12)])
    assert is_stopped(study, {400: 10.5}) == [False]


def test_a_study_that_maximises_stops_the_low_ones() -> None:
    study = study_of([{1_600: place, 3_200: place} for place in range(10)], direction="maximize")
    assert is_stopped(study, {1_600: 0.5}) == [True]
    assert is_stopped(study, {1_600: 8.5}) == [False]


@pytest.mark.parametrize("lost_frac", [0.0, 1.0, -0.1])
def test_a_share_that_is_none_is_refused(lost_frac: float) -> None:
    with pytest.raises(ValueError, match="lost_frac must be above 0 and below 1"):
        RankPruner(BUDGET, lost_frac)
