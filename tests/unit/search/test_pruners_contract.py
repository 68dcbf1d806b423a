"""What Optuna expects of every pruner, asked of those that a study may name and of the one that we define.

Optuna has no suite for pruners; these are the properties on which `Trial.should_prune` and `Study.optimize` rely.
"""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from autotune.search.learned_warmup import LearnedWarmup
from autotune.search.pruners import PRUNERS, build_pruner

BUDGET_TOKENS = 900
GRID = (100, 300, 500, 700, 900)
REQUIRED: dict[str, dict[str, Any]] = {"percentile": {"percentile": 25.0}, "threshold": {"upper": 10.0}}

pytestmark = [
    pytest.mark.parametrize("name", PRUNERS),
    # Optuna marks some of its pruners as experimental.
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


def build(name: str) -> BasePruner:
    return build_pruner(name, REQUIRED.get(name, {}), BUDGET_TOKENS)


def study_of(name: str, storage: InMemoryStorage | None = None) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(
        storage=storage, study_name="night", load_if_exists=True, sampler=sampler, pruner=build(name)
    )


def study_with_finished_trials(name: str, storage: InMemoryStorage | None = None) -> optuna.Study:
    study = study_of(name, storage)
    for place in range(10):
        trial = study.ask()
        for tokens in GRID:
            trial.report(descent(tokens) + place, step=tokens)
        study.tell(trial, descent(BUDGET_TOKENS) + place)
    return study


def descent(tokens: int) -> float:
    return 4.0 - tokens / BUDGET_TOKENS


def frozen(trial: Trial) -> FrozenTrial:
    return trial.study.get_trials(deepcopy=True)[trial.number]


def objective(trial: Trial) -> float:
    shift = trial.suggest_float("shift", 0.0, 10.0)
    for tokens in GRID:
        trial.report(descent(tokens) + shift, step=tokens)
        if trial.should_prune():
            raise optuna.TrialPruned
    return descent(BUDGET_TOKENS) + shift


def test_a_study_of_a_median_pruner_learns_its_warm_up(name: str) -> None:
    assert isinstance(build(name), LearnedWarmup) is (name in ("median", "percentile"))


def test_the_answer_is_yes_or_no_at_every_report(name: str) -> None:
    study = study_with_finished_trials(name)
    trial = study.ask()
    for tokens in GRID:
        trial.report(descent(tokens) + 4.5, step=tokens)
        assert study.pruner.prune(study, frozen(trial)) in (True, False)


def test_a_trial_without_a_report_is_not_stopped(name: str) -> None:
    study = study_with_finished_trials(name)
    assert not study.ask().should_prune()


def test_a_trial_that_is_alone_is_not_stopped(name: str) -> None:
    trial = study_of(name).ask()
    for tokens in GRID:
        trial.report(descent(tokens), step=tokens)
        assert not trial.should_prune()


def test_the_best_trial_is_not_stopped(name: str) -> None:
    trial = study_with_finished_trials(name).ask()
    for tokens in GRID:
        trial.report(descent(tokens) - 1.0, step=tokens)
        assert not trial.should_prune()


# Optuna and numpy warn of it; the engine ends such a trial as diverged before it asks a pruner.
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning", "ignore:The intermediate values of the current:")
def test_a_loss_that_is_no_number_raises_nothing(name: str) -> None:
    trial = study_with_finished_trials(name).ask()
    for tokens in GRID:
        trial.report(math.nan, step=tokens)
        trial.should_prune()


def test_judging_changes_neither_the_settings_nor_the_curve_nor_the_state(name: str) -> None:
    study = study_with_finished_trials(name)
    trial = study.ask()
    trial.suggest_float("shift", 0.0, 10.0)
    trial.report(descent(500) + 20.0, step=500)

    before = study.get_trials(deepcopy=True)
    trial.should_prune()
    after = study.get_trials(deepcopy=True)

    # Optuna's bandits keep the rungs of a trial among its system attributes, and nothing else.
    for earlier, later in zip(before, after, strict=True):
        assert (later.state, later.params, later.values) == (earlier.state, earlier.params, earlier.values)
        assert later.intermediate_values == earlier.intermediate_values
        assert later.user_attrs == earlier.user_attrs


@pytest.mark.parametrize("shift", [0.5, 4.5, 20.0])
def test_another_process_decides_alike(name: str, shift: float) -> None:
    """What a pruner knows comes from the study, so that a run that was killed goes on as it would have."""
    storage = InMemoryStorage()
    study = study_with_finished_trials(name, storage)
    trial = study.ask()
    trial.report(descent(500) + shift, step=500)
    decision = trial.should_prune()

    newcomer = study_of(name, storage)
    assert newcomer.pruner.prune(newcomer, frozen(trial)) == decision


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_study_runs_to_its_end(name: str, n_jobs: int) -> None:
    study = study_of(name)
    study.optimize(objective, n_trials=30, n_jobs=n_jobs)

    states = [trial.state for trial in study.trials]
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len(states) == 30
    best = min(study.trials, key=lambda trial: trial.params["shift"])
    assert best.state is TrialState.COMPLETE
