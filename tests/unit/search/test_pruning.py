"""Early stopping: what is audited, which trials a pruner is judged by, and how early is too early."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from scipy.stats import spearmanr

from autotune.search.pruning import curves_unbiased_by_pruning, measure_warm_up, rank_correlations, should_continue


class Always(optuna.pruners.BasePruner):
    """Would stop every trial."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return True


def decide(
    study: optuna.Study, audit_frac: float, *, role: str = "search", pruner_name: str = "median", seed: int = 1
) -> tuple[bool, dict[str, object]]:
    trial = study.ask()
    trial.set_user_attr("role", role)
    trial.report(1.0, 500)
    continues = should_continue(trial, 500, pruner_name=pruner_name, audit_frac=audit_frac, seed=seed)
    return continues, trial.user_attrs


def test_what_a_pruner_would_stop_is_stopped_or_audited_and_marked() -> None:
    study = optuna.create_study(pruner=Always())
    assert decide(study, 0) == (False, {"role": "search", "stopped_at": 500})
    assert decide(study, 1) == (True, {"role": "search", "audited_at": 500})
    assert decide(study, 0, role="baseline") == (True, {"role": "baseline"})


def test_without_a_pruner_optuna_is_not_asked() -> None:
    study = optuna.create_study(pruner=Always())
    assert decide(study, 0, pruner_name="none") == (True, {"role": "search"})


def test_an_audited_trial_is_not_asked_about_again() -> None:
    study = optuna.create_study(pruner=Always())
    trial = study.ask()
    trial.report(1.0, 500)
    assert should_continue(trial, 500, pruner_name="median", audit_frac=1, seed=1)
    trial.report(1.0, 750)
    assert should_continue(trial, 750, pruner_name="median", audit_frac=0, seed=1)
    assert trial.user_attrs == {"audited_at": 500}


def test_a_trial_that_no_pruner_objects_to_is_not_marked() -> None:
    study = optuna.create_study(pruner=optuna.pruners.NopPruner())
    assert decide(study, 1) == (True, {"role": "search"})


def test_the_audited_share_is_the_one_asked_for_and_the_same_again() -> None:
    def audited(seed: int) -> list[bool]:
        study = optuna.create_study(pruner=Always())
        return [decide(study, 0.1, seed=seed)[0] for _ in range(400)]

    first = audited(1)
    # 40 are expected; a binomial count lies outside 20 to 60 once in a thousand seeds, and these are fixed.
    assert 20 <= sum(first) <= 60
    assert audited(1) == first
    assert audited(2) != first


def test_trials_before_the_first_one_stopped_and_audits_are_unbiased() -> None:
    curves = {0: {1: 5.0}, 2: {1: 4.0}, 5: {1: 3.0}, 6: {1: 2.0}}
    assert curves_unbiased_by_pruning(curves, audited=[6], stopped=[4, 3]) == [{1: 5.0}, {1: 4.0}, {1: 2.0}]
    assert curves_unbiased_by_pruning(curves, audited=[], stopped=[]) == list(curves.values())
    assert curves_unbiased_by_pruning({}, audited=[], stopped=[1]) == []


def test_rank_correlations_are_scipys() -> None:
    losses = np.random.default_rng(0).integers(0, 6, (9, 7)).astype(float)  # with ties
    expected = [spearmanr(losses[:, column], losses[:, -1]).statistic for column in range(7)]
    assert rank_correlations(losses.tolist()) == pytest.approx(expected)
    assert rank_correlations([[1.0, 1.0], [1.0, 2.0]]) == [0.0, pytest.approx(1.0)]


def curves_of(*columns: list[float]) -> list[dict[int, float]]:
    """Curves from their columns at 100, 200, ... tokens."""
    return [{100 * (place + 1): loss for place, loss in enumerate(row)} for row in zip(*columns, strict=True)]


def test_the_warm_up_ends_where_every_later_ranking_agrees() -> None:
    """At 100 tokens the ranks agree by chance and at 200 they do not, so 300 is the earliest to be trusted."""
    final = [1.0, 2.0, 3.0, 4.0]
    warm_up = measure_warm_up(curves_of(final, [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 4.0, 3.0], final), agreement=0.8)
    # Two neighbours exchanged of four: 1 - 6 x 2 / (4 x 15).
    assert warm_up is not None
    assert (warm_up.tokens, warm_up.rank_correlation, warm_up.trials) == (300, pytest.approx(0.8), 4)


def test_without_any_agreement_only_the_end_is_trusted() -> None:
    warm_up = measure_warm_up(curves_of([4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 4.0, 3.0], [1.0, 2.0, 3.0, 4.0]))
    assert warm_up is not None and warm_up.tokens == 300


@pytest.mark.parametrize(
    "curves", [[], curves_of([1.0, 2.0], [1.0, 2.0]), curves_of([1.0, 2.0, 3.0]), [{1: 1.0}, {2: 1.0}, {3: 1.0}]]
)
def test_too_little_to_learn_a_warm_up_from(curves: list[dict[int, float]]) -> None:
    assert measure_warm_up(curves) is None
