"""Simulated searches on small tables whose outcome can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from recorded_tables import CONDITIONAL, CONDITIONAL_BASE, bowl_table, row, table

from autotune.core.records import TrialStatus
from autotune.replay import simulation
from autotune.replay.simulation import Search, simulate
from autotune.replay.sources import Rows
from autotune.replay.table import Row
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

INF = math.inf
NAN = math.nan
RANDOM = SamplerSpec(name="random")
TPE = SamplerSpec(name="tpe")
NONE = PrunerSpec(name="none")


def threshold(upper: float, audit_frac: float = 0.0) -> PrunerSpec:
    """A pruner that stops what is above a loss, so that who is stopped is known beforehand."""
    return PrunerSpec.model_validate({"name": "threshold", "upper": upper, "audit_frac": audit_frac})


class Script:
    """Gives rows in a written order, and remembers what was proposed."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.best = INF
        self.proposals: list[dict[str, Any]] = []
        self._rows = iter(rows)

    def take(self, params: Mapping[str, Any]) -> Row | None:
        self.proposals.append(dict(params))
        return next(self._rows, None)


def test_device_time_and_losses_by_hand() -> None:
    """Budget 1,000 tokens, evaluations at 500 and 1,000; whatever is above 5 nats is stopped."""
    script = [
        (row({"lr": 0.01}, (9.0, 8.0)), 14.0, 8.0),  # the baseline is never stopped: 2 + 1000/100 + 2 * 1
        (row({"lr": 0.02}, (4.0, 3.0), speed=200.0, eval_s=0.5, set_up_s=1.0), 7.0, 3.0),  # 1 + 1000/200 + 2 * 0.5
        (row({"lr": 0.03}, (6.0, 2.0)), 8.0, INF),  # stopped at 500: 2 + 500/100 + 1
        (row({"lr": 0.04}, (4.0, NAN), TrialStatus.DIVERGED), 14.0, INF),
        (row({"lr": 0.05}, (NAN,), TrialStatus.DIVERGED), 8.0, INF),
        (row({"lr": 0.06}, (4.5,), TrialStatus.DIVERGED), 8.0, INF),  # it blew up with a finite loss
        (row({"lr": 0.07}, (4.0, 4.1), TrialStatus.DIVERGED), 14.0, INF),
        (row({"lr": 0.08}, (4.0,), TrialStatus.OUT_OF_MEMORY), 8.0, INF),
        (row({"lr": 0.09}, (), TrialStatus.OUT_OF_MEMORY), 8.0, INF),  # counted as far as the first evaluation
        (row({"lr": 0.10}, (4.0, 6.0)), 14.0, 6.0),  # at the end there is nothing left to stop
    ]
    rows = [each for each, _, _ in script]
    source = Script(rows)
    search = simulate(table(rows), source, RANDOM, threshold(5.0), 0, 1_000.0)
    assert search.ends_s == pytest.approx(np.cumsum([seconds for _, seconds, _ in script]))
    assert search.losses == tuple(loss for _, _, loss in script)
    assert search.best == 3.0


def test_an_audited_trial_runs_on_and_counts_whole() -> None:
    rows = [row({"lr": 0.01}, (9.0, 8.0)), row({"lr": 0.03}, (6.0, 2.0))]
    audited = simulate(table(rows), Script(rows), RANDOM, threshold(5.0, audit_frac=1.0), 0, 1_000.0)
    assert (audited.ends_s, audited.losses) == ((14.0, 28.0), (8.0, 2.0))


def test_the_seed_says_which_trials_are_audited() -> None:
    rows = [row({"lr": 0.01}, (9.0, 8.0)), *[row({"lr": 0.03}, (6.0, 2.0))] * 40]

    def audited(seed: int) -> list[bool]:
        search = simulate(table(rows), Script(rows), RANDOM, threshold(5.0, audit_frac=0.5), seed, 1_000.0)
        return [math.isfinite(loss) for loss in search.losses[1:]]

    assert audited(1) == audited(1) != audited(2)
    assert 5 < sum(audited(1)) < 35


def test_the_baseline_comes_first_and_is_the_bases_own_settings() -> None:
    rows = [row({"name": "lion"}), row({"name": "adam", "beta": 0.3}), row({"name": "sgd"})]
    source = Script(rows)
    recorded = table(rows, CONDITIONAL, CONDITIONAL_BASE)
    simulate(recorded, source, RANDOM, NONE, 0, 1_000.0)
    assert source.proposals[0] == {"name": "adam", "beta": 0.75}
    assert len(source.proposals) == 4
    # Later ones are proposals: conditions hold in each of them.
    assert all(("beta" in params) == (params["name"] == "adam") for params in source.proposals)


def test_a_baseline_has_only_settings_whose_condition_holds() -> None:
    source = Script([row({"name": "sgd"})])
    simulate(table([row({"name": "sgd"})], CONDITIONAL, {"name": "sgd", "beta": 0.75}), source, RANDOM, NONE, 0, 1.0)
    assert source.proposals == [{"name": "sgd"}]


def test_a_search_ends_with_its_rows() -> None:
    rows = [row({"lr": lr}) for lr in (0.01, 0.1, 0.5)]
    search = simulate(table(rows), Rows(table(rows)), RANDOM, NONE, 0, 1_000.0)
    assert search.ends_s == (14.0, 28.0, 42.0)


@pytest.mark.parametrize(("budget_s", "trials"), [(0.0, 0), (0.1, 1), (14.0, 1), (14.1, 2), (28.0, 2), (28.1, 3)])
def test_no_trial_begins_after_the_budget(budget_s: float, trials: int) -> None:
    rows = [row({"lr": lr}) for lr in np.geomspace(0.001, 1, 9)]
    assert len(simulate(table(rows), Rows(table(rows)), RANDOM, NONE, 0, budget_s).ends_s) == trials


class Listening(optuna.samplers.RandomSampler):
    """A random sampler that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.told: list[tuple[TrialState, dict[str, Any], dict[int, float], Any]] = []

    def after_trial(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if state is not TrialState.FAIL:
            self.told.append((state, trial.params, trial.intermediate_values, values and list(values)))


def test_what_a_sampler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divergence, want of memory and stopping teach; proposals that no row has are forgotten."""
    rows = [
        row({"lr": 0.01}, (4.0, 3.0)),
        row({"lr": 0.02}, (4.5, NAN), TrialStatus.DIVERGED),
        row({"lr": 0.03}, (NAN,), TrialStatus.DIVERGED),
        row({"lr": 0.04}, (4.0,), TrialStatus.OUT_OF_MEMORY),
        row({"lr": 0.05}, (6.0, 2.0)),
        row({"lr": 0.06}, (4.0, 5.5)),  # at its end it is no longer judged
    ]
    sampler = Listening()
    monkeypatch.setattr(simulation, "build_sampler", lambda *_: sampler)
    simulate(table(rows), Script(rows), RANDOM, threshold(5.0), 0, 1_000.0)
    assert [(state, params["lr"], curve) for state, params, curve, _ in sampler.told] == [
        (TrialState.COMPLETE, 0.01, {500: 4.0, 1_000: 3.0}),
        (TrialState.PRUNED, 0.02, {500: 4.5}),
        (TrialState.PRUNED, 0.03, {}),
        (TrialState.PRUNED, 0.04, {500: 4.0}),
        (TrialState.PRUNED, 0.05, {500: 6.0}),
        (TrialState.COMPLETE, 0.06, {500: 4.0, 1_000: 5.5}),
    ]
    assert [values for state, _, _, values in sampler.told if state is TrialState.COMPLETE] == [[3.0], [5.5]]


def test_the_same_seed_gives_the_same_search_and_another_seed_another() -> None:
    recorded = bowl_table(40)

    def search(seed: int) -> Search:
        return simulate(recorded, Rows(recorded), TPE, PrunerSpec(), seed, 300.0)

    assert search(1) == search(1)
    assert search(1).losses[1:] != search(2).losses[1:]
    assert search(1).losses[0] == search(2).losses[0]


def test_a_hyperband_search_is_the_same_for_the_same_seed() -> None:
    recorded = bowl_table(60)
    hyperband = PrunerSpec(name="hyperband")
    first, again = (simulate(recorded, Rows(recorded), TPE, hyperband, 1, 400.0) for _ in range(2))
    assert first == again


def test_seconds_to_a_loss_are_those_of_the_first_trial_there() -> None:
    search = Search((10.0, 20.0, 30.0, 40.0), (5.0, INF, 3.0, 2.0))
    assert [search.seconds_to(loss) for loss in (6.0, 5.0, 4.9, 3.0, 2.0, 1.9)] == [10.0, 10.0, 30.0, 30.0, 40.0, INF]
    assert search.best == 2.0


def test_the_best_by_some_time_is_of_the_trials_that_ended_by_then() -> None:
    search = Search((10.0, 20.0, 30.0, 40.0), (5.0, INF, 2.0, 3.0))
    assert [search.best_by(seconds) for seconds in (9.9, 10.0, 29.9, 30.0, 50.0)] == [INF, 5.0, 5.0, 2.0, 2.0]


def test_a_search_without_a_finished_trial_has_no_best() -> None:
    assert Search((), ()).best == INF
    assert Search((1.0,), (INF,)).best == INF
    assert Search((1.0,), (INF,)).seconds_to(100.0) == INF
