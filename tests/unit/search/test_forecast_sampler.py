"""The sampler that learns from what stopped trials would have ended with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.search.forecast_sampler import (
    _MOST_LEARNED,
    ForecastSampler,
    _learned,
    expected_losses,
    flattened,
    log_expected_improvement,
)
from autotune.search.samplers import build_sampler
from autotune.search.space import SearchSpace
from autotune.search.unit_cube import UnitCube

SPACE = SearchSpace.model_validate(
    {
        "lr": {"low": 0.0, "high": 1.0},
        "heads": {"choices": [2, 4]},
        "depth": {"low": 0.0, "high": 1.0, "when": {"heads": 4}},
    }
)
BASE = {"lr": 0.5, "heads": 2, "depth": 0.25}
LR = SearchSpace.model_validate({"lr": {"low": 0.0, "high": 1.0}})


def ended(curve: dict[int, float], state: TrialState = TrialState.COMPLETE, **more: Any) -> FrozenTrial:
    params = more.pop("params", {"lr": 0.5, "heads": 2})
    return create_trial(
        state=state,
        params=params,
        distributions={path: SPACE[path].distribution() for path in params},
        value=curve[max(curve)] if state is TrialState.COMPLETE else None,
        intermediate_values=curve,
        **more,
    )


def losses_of(*trials: FrozenTrial, sign: float = 1.0) -> list[float]:
    for number, trial in enumerate(trials):
        trial.number = number
    return list(expected_losses(trials, sign).values())


def study_of(trials: list[FrozenTrial], space: SearchSpace = SPACE, direction: str = "minimize") -> optuna.Study:
    base = {path: BASE[path] for path in space}
    study = optuna.create_study(direction=direction, sampler=build_sampler("gp", {}, space, base, seed=1))
    study.add_trials(trials)
    return study


def sampler_of(study: optuna.Study) -> ForecastSampler:
    assert isinstance(study.sampler, ForecastSampler)
    return study.sampler


def asked(study: optuna.Study) -> FrozenTrial:
    number = study.ask().number
    return study.trials[number]


def test_a_stopped_trial_counts_with_its_forecast() -> None:
    stopped = ended({20: 5.5}, TrialState.PRUNED, user_attrs={"stopped_at": 20})
    assert losses_of(ended({20: 5.0, 100: 4.0}), stopped) == [4.0, pytest.approx(4.16)]


def test_no_forecast_outdoes_what_was_trained_to_its_end() -> None:
    stopped = ended({20: 3.0}, TrialState.PRUNED, user_attrs={"stopped_at": 20})
    assert losses_of(ended({20: 5.0, 100: 4.0}), stopped) == [4.0, 4.0]


def test_what_diverged_or_did_not_fit_counts_as_the_worst() -> None:
    diverged = ended({20: 5.1}, TrialState.PRUNED)
    out_of_memory = ended({}, TrialState.PRUNED)
    trials = ended({20: 5.0, 100: 4.0}), ended({20: 6.0, 100: 4.9}), diverged, out_of_memory
    assert losses_of(*trials) == [4.0, 4.9, 4.9, 4.9]


def test_where_more_is_better_everything_is_turned_around() -> None:
    stopped = ended({20: 0.1}, TrialState.PRUNED, user_attrs={"stopped_at": 20})
    assert losses_of(ended({20: 0.2, 100: 0.9}), stopped, sign=-1.0) == [-0.9, pytest.approx(-0.868)]


def test_faults_of_the_machine_do_not_count_and_running_trials_have_no_loss_yet() -> None:
    running = create_trial(
        state=TrialState.RUNNING,
        params={"lr": 0.25, "heads": 2},
        distributions={path: SPACE[path].distribution() for path in ("lr", "heads")},
    )
    study = study_of([ended({100: 4.0}), ended({100: 4.2}), ended({20: 5.0}, TrialState.FAIL), running])
    positions, losses = known_of(study)
    assert positions[:, 2].tolist() == [0.5, 0.5, 0.25]
    assert losses[:2].tolist() == [4.0, 4.2] and math.isnan(losses[2])


def known_of(study: optuna.Study) -> tuple[np.ndarray, np.ndarray]:
    """Positions (depth, heads, lr) and losses that a study's sampler learns from."""
    trial = asked(study)
    search_space = study.sampler.infer_relative_search_space(study, trial)
    known = sampler_of(study)._known(study, trial, UnitCube(search_space), search_space)
    assert known is not None
    return known


def test_a_setting_without_its_condition_counts_with_its_base_value() -> None:
    positions, _ = known_of(
        study_of([ended({100: 4.0}), ended({100: 3.9}, params={"lr": 0.1, "heads": 4, "depth": 0.5})])
    )
    assert positions[:, 0].tolist() == [0.25, 0.5]


def test_values_beyond_the_present_range_still_teach() -> None:
    beyond = create_trial(
        params={"lr": 3.0, "heads": 2},
        distributions={"lr": optuna.distributions.FloatDistribution(0, 5), "heads": SPACE["heads"].distribution()},
        value=1.0,
        intermediate_values={100: 1.0},
    )
    assert known_of(study_of([ended({100: 4.0}), beyond, ended({100: 4.1})]))[1].tolist() == [4.0, 1.0, 4.1]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_it_goes_where_stopped_trials_were_good(direction: str) -> None:
    """All but the first trial, at lr = 0.8, were stopped, the later the farther from it: proposals stay near it."""
    space = SearchSpace.model_validate({"lr": {"low": 0.0, "high": 1.0}, "gain": {"low": 0.0, "high": 1.0}})
    sign = 1 if direction == "minimize" else -1
    trials = []
    for number, lr in enumerate((0.8, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)):
        loss = sign * (6.0 + 2 * (lr - 0.8) ** 2)
        trials.append(
            create_trial(
                state=TrialState.PRUNED if number else TrialState.COMPLETE,
                params={"lr": lr, "gain": 0.5},
                distributions={path: space[path].distribution() for path in space},
                value=None if number else loss - sign,
                intermediate_values={50: loss} if number else {50: loss, 100: loss - sign},
                user_attrs={"stopped_at": 50} if number else {},
            )
        )
    sampler = build_sampler("gp", {}, space, {"lr": 0.1, "gain": 0.5}, seed=1)
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.add_trials(trials)
    proposed = [space.suggest(study.ask(), {})["lr"] for _ in range(3)]
    assert all(float(lr) > 0.6 for lr in proposed)


def test_trials_that_run_are_not_proposed_again() -> None:
    """Proposed at once, without an end between them, settings lie apart."""
    trials = [ended({100: 4.0 + (lr - 0.5) ** 2}, params={"lr": lr}) for lr in (0.0, 0.2, 0.8, 1.0)]
    study = study_of(trials, LR)
    proposed = sorted(float(LR.suggest(study.ask(), BASE)["lr"]) for _ in range(4))
    assert min(np.diff(proposed)) > 0.01


def test_of_a_few_choices_each_is_tried_before_one_is_tried_again() -> None:
    space = SearchSpace.model_validate({"heads": {"choices": [1, 2, 4, 8, 16, 32]}})
    study = optuna.create_study(sampler=build_sampler("gp", {}, space, {"heads": 1}, seed=1))
    for heads in (1, 2):
        study.add_trial(
            create_trial(
                params={"heads": heads}, distributions={"heads": space["heads"].distribution()}, value=1.0 / heads
            )
        )
    for _ in range(4):
        trial = study.ask()
        study.tell(trial, 1.0 / int(space.suggest(trial, {})["heads"]))
    assert sorted(trial.params["heads"] for trial in study.trials) == [1, 2, 4, 8, 16, 32]


def test_of_some_settings_it_chooses_the_one_that_it_would_propose() -> None:
    study = study_of([ended({100: 4.0 + (lr - 0.5) ** 2}, params={"lr": lr}) for lr in (0.0, 0.2, 0.4, 0.8, 1.0)], LR)
    trial = asked(study)
    chosen = sampler_of(study).choose(study, trial, [{"lr": 0.05}, {"lr": 0.55}, {"lr": 0.95}])
    assert chosen == 1
    assert sampler_of(study).choose(study_of([], LR), trial, [{"lr": 0.05}, {"lr": 0.55}]) == 0


def test_the_scale_of_losses_has_no_upper_tail() -> None:
    """Values of ranks 1 to 5: half of it are their scores, half what is not above the median."""
    from scipy.stats import norm

    values = flattened(np.array([1.0, 2.0, 3.0, 100.0, 5.0]))
    clipped = np.array([1.0, 2.0, 3.0, 3.0, 3.0])
    expected = (clipped - clipped.mean()) / clipped.std() + norm.ppf((np.array([1, 2, 3, 5, 4]) - 0.375) / 5.25)
    assert values == pytest.approx((expected - expected.mean()) / expected.std())
    assert flattened(np.array([2.0, 2.0, 2.0])).tolist() == [0.0, 0.0, 0.0]


def test_equal_losses_share_the_mean_of_their_ranks() -> None:
    from scipy.stats import norm, rankdata

    losses = np.random.default_rng(0).integers(0, 5, 40).astype(float)
    scores = norm.ppf((rankdata(losses) - 0.375) / (len(losses) + 0.25))
    clipped = np.minimum(losses, np.median(losses))
    expected = (clipped - clipped.mean()) / clipped.std() + scores
    assert flattened(losses) == pytest.approx((expected - expected.mean()) / expected.std())


def test_positions_that_are_kept_are_those_from_scratch() -> None:
    """As trials begin, are given settings and end, and as a range and then the choices change."""
    study = study_of([ended({100: 4.0 - lr}, params={"lr": lr, "heads": 2}) for lr in (0.2, 0.8)])
    kept = sampler_of(study)
    searched = {path: SPACE[path].distribution() for path in SPACE}
    narrowed = {**searched, "lr": optuna.distributions.FloatDistribution(0.3, 0.7)}
    fewer = {**narrowed, "heads": optuna.distributions.CategoricalDistribution([4])}

    running: optuna.Trial | None = None
    for search_space in (searched, searched, narrowed, narrowed, fewer, searched):
        proposed_for = study.ask()
        if running is not None:
            study.tell(running, 3.0 + running.number)
        running = study.ask({"lr": searched["lr"], "heads": searched["heads"]})

        cube = UnitCube(search_space)
        frozen = study.trials[proposed_for.number]
        fresh = sampler_of(study_of([]))
        now, scratch = (each._known(study, frozen, cube, search_space) for each in (kept, fresh))
        assert (now is None) == (scratch is None)
        if now is not None and scratch is not None:
            assert np.array_equal(now[0], scratch[0]) and np.array_equal(now[1], scratch[1], equal_nan=True)


def test_the_expected_improvement_is_that_of_an_integral() -> None:
    mean, sigma, best = np.array([0.3, 1.0, -2.0]), np.array([0.5, 0.2, 1.0]), 0.0
    draws = mean + sigma * np.random.default_rng(0).standard_normal((2_000_000, 3))
    measured = np.maximum(best - draws, 0).mean(axis=0)
    assert np.exp(log_expected_improvement(mean, sigma, best))[[0, 2]] == pytest.approx(measured[[0, 2]], rel=0.01)


def test_the_expected_improvement_has_a_slope_even_where_it_vanishes() -> None:
    far = log_expected_improvement(np.linspace(1.0, 100.0, 200), np.ones(200), 0.0)
    assert np.isfinite(far).all() and (np.diff(far) < 0).all()


def test_two_objectives_are_passed_on() -> None:
    sampler = build_sampler("gp", {}, LR, {"lr": 0.1}, seed=1)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(lambda trial: (float(LR.suggest(trial, {})["lr"]), 1.0), n_trials=5)
    assert len(study.trials) == 5 and study.best_trials


def test_of_too_many_trials_the_best_and_some_of_all_ranks_are_learned_from() -> None:
    few = np.array([3.0, np.nan, 1.0])
    assert _learned(few).tolist() == [0, 1, 2]

    values = np.random.default_rng(1).permutation(np.arange(3.0 * _MOST_LEARNED))
    values[[5, 70]] = np.nan
    learned = _learned(values)
    assert len(learned) == _MOST_LEARNED + 2 and {5, 70} <= set(learned)
    assert (np.diff(learned) > 0).all()

    told = np.sort(values[learned][~np.isnan(values[learned])])
    ended = np.sort(values[~np.isnan(values)])
    half = _MOST_LEARNED // 2
    assert (told[:half] == ended[:half]).all()
    assert told[-1] == ended[-1] and np.diff(told[half:]).max() <= 7
