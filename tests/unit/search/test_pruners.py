"""Pruners: every name builds or says what it needs, and decisions on hand-picked numbers."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from autotune.search.learned_warmup import LearnedWarmup
from autotune.search.pruners import PRUNERS, build_pruner, parameters, rehearse

BUDGET = 1_000
NEEDED: dict[str, dict[str, Any]] = {"percentile": {"percentile": 25.0}, "threshold": {"upper": 10.0}}


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_builds_and_judges(name: str) -> None:
    pruner = build_pruner(name, NEEDED.get(name, {}), BUDGET)
    asked = pruner.inner if isinstance(pruner, LearnedWarmup) else pruner
    assert type(asked).__name__ == PRUNERS[name]
    assert isinstance(pruner, LearnedWarmup) is (name in ("median", "percentile"))
    rehearse(pruner)


@pytest.mark.parametrize("options", [{"warmup_frac": 0.0}, {"n_warmup_steps": 0}])
def test_a_warm_up_that_is_given_is_not_learned(options: dict[str, Any]) -> None:
    assert isinstance(build_pruner("median", options, BUDGET), optuna.pruners.MedianPruner)


def test_a_pruner_without_what_it_needs_says_so() -> None:
    with pytest.raises(ValueError, match=r"it needs percentile; add percentile = \.\.\. to \[pruner\]"):
        build_pruner("percentile", {}, BUDGET)
    with pytest.raises(TypeError, match="Either lower or upper must be specified"):
        build_pruner("threshold", {}, BUDGET)


def study_with(pruner: optuna.pruners.BasePruner, curves: list[dict[int, float]]) -> optuna.Study:
    """A study with finished trials of the given losses by tokens."""
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    for curve in curves:
        trial = study.ask()
        for tokens, loss in curve.items():
            trial.report(loss, step=tokens)
        study.tell(trial, list(curve.values())[-1])
    return study


def decisions(study: optuna.Study, curve: dict[int, float]) -> list[bool]:
    trial = study.ask()
    answers: list[bool] = []
    for tokens, loss in curve.items():
        trial.report(loss, step=tokens)
        answers.append(trial.should_prune())
    return answers


CURVES = [{200: 4.0 + shift, 600: 3.0 + shift, 1_000: 2.0 + shift} for shift in (0.0, 0.1, 0.2, 0.3, 0.4)]


def test_median_by_hand() -> None:
    """The medians of the five trials are 4.2, 3.2 and 2.2; nothing is judged before 300 tokens."""
    options = {"n_startup_trials": 5, "warmup_frac": 0.3}
    study = study_with(build_pruner("median", options, BUDGET), CURVES)
    assert decisions(study, {200: 9.0, 600: 3.2, 1_000: 2.3}) == [False, False, True]
    assert decisions(study, {200: 9.0, 600: 3.21}) == [False, True]
    assert decisions(study, {200: 4.0, 600: 3.1}) == [False, False]


def test_median_waits_for_its_startup_trials() -> None:
    study = study_with(build_pruner("median", {"n_startup_trials": 5}, BUDGET), CURVES[:4])
    assert decisions(study, {200: 9.0, 600: 9.0}) == [False, False]


def test_trials_are_compared_at_the_same_tokens_only() -> None:
    study = study_with(build_pruner("median", {"n_startup_trials": 1, "warmup_frac": 0.0}, BUDGET), CURVES)
    assert decisions(study, {250: 9.0, 650: 9.0}) == [False, False]


@pytest.mark.parametrize(("frac", "first_judged"), [(0.0, 0), (0.2, 0), (0.25, 1), (0.6, 1), (0.61, 2), (0.999, 2)])
def test_the_warm_up_is_a_share_of_the_budget(frac: float, first_judged: int) -> None:
    study = study_with(build_pruner("median", {"n_startup_trials": 1, "warmup_frac": frac}, BUDGET), CURVES)
    expected = [position >= first_judged for position in range(3)]
    assert decisions(study, {200: 9.0, 600: 9.0, 1_000: 9.0}) == expected


@pytest.mark.parametrize("frac", [-0.1, 1.0, 30])
def test_a_warm_up_beyond_the_budget_is_refused(frac: float) -> None:
    with pytest.raises(
        ValueError, match=f"warmup_frac must be a share of the budget, from 0 to less than 1, but it is {frac}"
    ):
        build_pruner("median", {"warmup_frac": frac}, BUDGET)


def test_halving_starts_at_a_ninth_of_the_budget_by_thirds() -> None:
    """With rungs at 111 and 333 tokens, the worst of three is stopped at the first."""
    study = study_with(build_pruner("successive_halving", {}, BUDGET), [])
    trials = [study.ask() for _ in range(3)]
    for trial, loss in zip(trials, (1.0, 2.0, 3.0), strict=True):
        trial.report(loss, step=100)
        assert not trial.should_prune()
        trial.report(loss, step=111)
    assert [trial.should_prune() for trial in trials] == [False, True, True]


def test_a_share_of_the_budget_is_accepted_where_there_is_a_warm_up() -> None:
    assert [name for name in PRUNERS if "warmup_frac" in parameters(name)] == ["median", "percentile", "threshold"]
    assert parameters("none") == {}
