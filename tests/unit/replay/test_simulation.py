"""Simulated searches on small tables whose outcome can be worked out by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from autotune.core.errors import UserError
from autotune.core.records import TrialStatus
from autotune.replay import simulation
from autotune.replay.simulation import (
    Arm,
    Rows,
    Search,
    Surrogate,
    describe,
    describe_table,
    parse_pruner,
    parse_sampler,
    run_arm,
    simulate,
    to_json,
    trial_s,
)
from autotune.replay.table import Row, Table
from autotune.study.spec import PrunerSpec, SamplerSpec, StudySpec

INF, NAN = math.inf, math.nan
LR = {"lr": {"low": 0.001, "high": 1.0, "log": True}}
RANDOM, TPE = SamplerSpec(name="random"), SamplerSpec(name="tpe")
NONE = PrunerSpec(name="none")


def row(
    params: Mapping[str, Any],
    losses: Sequence[float] = (4.0, 3.0),
    status: TrialStatus = TrialStatus.FINISHED,
    speed: float = 100.0,
    eval_s: float = 1.0,
    set_up_s: float = 2.0,
) -> Row:
    """A row of 14 s, or of 8 s to its first evaluation, unless told otherwise."""
    return Row(params, status, tuple(losses), speed, eval_s, set_up_s)


def table(
    rows: Sequence[Row], space: Mapping[str, Any] = LR, base: Mapping[str, Any] | None = None, name: str = "night"
) -> Table:
    spec = StudySpec.model_validate(
        {"name": name, "budget": {"tokens": 1_000}, "base": base or {"lr": 0.01}, "space": space}
    )
    return Table(spec, {}, (500, 1_000), tuple(rows))


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


# Which row is nearest


def test_the_nearest_row_is_nearest_on_the_log_scale() -> None:
    rows = [row({"lr": lr}) for lr in (0.001, 0.01, 0.1, 1.0)]
    # By their difference 0.04 is nearer to 0.01; by their ratio it is nearer to 0.1.
    assert Rows(table(rows)).take({"lr": 0.04}) is rows[2]
    assert Rows(table(rows)).take({"lr": 0.03}) is rows[1]
    assert Rows(table(rows)).take({"lr": 0.9}) is rows[3]


def test_the_nearest_row_among_choices_and_whole_numbers() -> None:
    space = {"kind": {"choices": ["a", "b", "c"]}, "layers": {"low": 1, "high": 5}}
    rows = [row({"kind": kind, "layers": layers}) for kind, layers in (("a", 5), ("c", 2), ("b", 3))]
    source = Rows(table(rows, space, {"kind": "a", "layers": 1}))
    # From (0, 0) it is 1 to (0, 1), 1.03 to (1, 0.25) and 0.71 to (0.5, 0.5).
    assert source.take({"kind": "a", "layers": 1}) is rows[2]
    assert source.take({"kind": "a", "layers": 1}) is rows[0]
    assert source.take({"kind": "a", "layers": 5}) is rows[1]


CONDITIONAL = {
    "name": {"choices": ["adam", "sgd", "lion"]},
    "beta": {"low": 0.0, "high": 1.0, "when": {"name": "adam"}},
}
CONDITIONAL_BASE = {"name": "adam", "beta": 0.75}


def test_a_setting_missing_from_a_proposal_sits_at_its_base_value() -> None:
    rows = [row({"name": "adam", "beta": 0.5}), row({"name": "adam", "beta": 0.9})]
    # 0.75 is 0.15 from 0.9 and 0.25 from 0.5; the middle or an end of the range would pick the other row.
    assert Rows(table(rows, CONDITIONAL, CONDITIONAL_BASE)).take({"name": "sgd"}) is rows[1]


def test_a_setting_missing_from_a_row_sits_at_its_base_value() -> None:
    rows = [row({"name": "adam", "beta": 0.15}), row({"name": "sgd"})]
    # The row of sgd is half a range away in the name alone, the other one 0.6 in beta.
    assert Rows(table(rows, CONDITIONAL, CONDITIONAL_BASE)).take({"name": "adam", "beta": 0.75}) is rows[1]


def test_each_row_is_taken_once_in_order_of_distance_until_none_is_left() -> None:
    rows = [row({"lr": lr}) for lr in (0.5, 0.01, 0.003, 0.08)]
    source = Rows(table(rows))
    taken = [source.take({"lr": 0.009}) for _ in range(6)]
    assert taken == [rows[1], rows[2], rows[3], rows[0], None, None]


def test_the_best_of_the_rows_is_of_those_that_finished() -> None:
    rows = [row({"lr": 0.1}, (4.0, 3.0)), row({"lr": 0.2}, (1.0,), TrialStatus.DIVERGED), row({"lr": 0.3}, (5.0, 2.5))]
    assert Rows(table(rows)).best == 2.5


# A search


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


def bowl_table(count: int, noise: float = 0.0) -> Table:
    """Rows of a smooth function: best at lr 0.03 and width 0.4; the speed falls with the width."""
    rng = np.random.default_rng(5)
    rows = [
        row({"lr": float(lr), "width": float(width)}, bowl(lr, width, rng.normal(0, noise)), speed=speed(width))
        for lr, width in zip(10 ** rng.uniform(-3, 0, count), rng.uniform(0, 1, count), strict=True)
    ]
    return table(rows, {**LR, "width": {"low": 0.0, "high": 1.0}}, {"lr": 0.3, "width": 0.9})


def bowl(lr: float, width: float, shift: float = 0.0) -> tuple[float, float]:
    end = 2.0 + math.log10(lr / 0.03) ** 2 / 2 + (width - 0.4) ** 2 + shift
    return end + 1.0 + 0.3 * width, end


def speed(width: float) -> float:
    return 100.0 * math.exp(-width)


def test_the_same_seed_gives_the_same_search_and_another_seed_another() -> None:
    recorded = bowl_table(40)

    def search(seed: int) -> Search:
        return simulate(recorded, Rows(recorded), TPE, PrunerSpec(), seed, 300.0)

    assert search(1) == search(1)
    assert search(1).losses[1:] != search(2).losses[1:]
    assert search(1).losses[0] == search(2).losses[0]


def test_a_sampler_that_learns_finds_the_best_sooner_than_one_that_does_not() -> None:
    recorded = bowl_table(120)
    found = {
        sampler.name: run_arm(
            recorded, lambda: Rows(recorded), sampler, NONE, repeats=7, budget_s=2_000.0, within_frac=0.005
        ).median_s
        for sampler in (TPE, RANDOM)
    }
    assert found["tpe"] < 0.9 * found["random"]


# Searches of an arm


def test_seconds_to_a_loss_are_those_of_the_first_trial_there() -> None:
    search = Search((10.0, 20.0, 30.0, 40.0), (5.0, INF, 3.0, 2.0))
    assert [search.seconds_to(loss) for loss in (6.0, 5.0, 4.9, 3.0, 2.0, 1.9)] == [10.0, 10.0, 30.0, 30.0, 40.0, INF]
    assert search.best == 2.0


def test_the_best_by_some_time_is_of_the_trials_that_ended_by_then() -> None:
    search = Search((10.0, 20.0, 30.0, 40.0), (5.0, INF, 2.0, 3.0))
    assert [search.best_by(seconds) for seconds in (9.9, 10.0, 29.9, 30.0, 50.0)] == [INF, 5.0, 5.0, 2.0, 2.0]


def test_a_hyperband_search_is_the_same_for_the_same_seed() -> None:
    recorded = bowl_table(60)
    hyperband = PrunerSpec(name="hyperband")
    first, again = (simulate(recorded, Rows(recorded), TPE, hyperband, 1, 400.0) for _ in range(2))
    assert first == again


def test_a_search_without_a_finished_trial_has_no_best() -> None:
    assert Search((), ()).best == INF
    assert Search((1.0,), (INF,)).best == INF
    assert Search((1.0,), (INF,)).seconds_to(100.0) == INF


def arm(*seconds: float, target: float = 3.0) -> Arm:
    """An arm whose searches reach the target after so many seconds."""
    searches = [Search((1.0, 5_000.0 if each == INF else each), (4.0, 3.1 if each == INF else 2.9)) for each in seconds]
    return Arm("tpe + none", tuple(searches), target)


@pytest.mark.parametrize(
    ("seconds", "median_s", "reached_frac"),
    [
        ((60.0,), 60.0, 1.0),
        ((INF,), INF, 0.0),
        ((120.0, INF, 60.0), 120.0, 2 / 3),
        ((INF, 60.0, INF), INF, 1 / 3),
        ((INF, 120.0, 60.0, 180.0), 180.0, 0.75),
        ((INF, 120.0, 60.0, INF), INF, 0.5),
    ],
)
def test_median_and_share_by_hand(seconds: tuple[float, ...], median_s: float, reached_frac: float) -> None:
    assert arm(*seconds).seconds == sorted(seconds)
    assert arm(*seconds).median_s == median_s
    assert arm(*seconds).reached_frac == pytest.approx(reached_frac)


def test_the_interval_of_the_median_by_hand() -> None:
    """Of 11 searches drawn again, the median is at most the k-th if 6 or more of them are.

    That is P(binomial(11, k/11) >= 6): 0.007 for the second, 0.052 for the third, so the lower end is the third, and
    the upper one by symmetry the ninth.
    """
    seconds = [10.0 * k for k in range(1, 12)]
    assert arm(*seconds).interval_s() == (30.0, 90.0)
    assert arm(*reversed(seconds)).interval_s() == (30.0, 90.0)
    assert arm(*seconds[:8], INF, INF, INF).interval_s() == (30.0, INF)
    assert arm(*seconds[:2], *[INF] * 9).interval_s() == (INF, INF)
    assert arm(60.0).interval_s() == (60.0, 60.0)
    assert arm(INF, INF).interval_s() == (INF, INF)


def test_an_arm_has_one_search_a_seed_each_with_a_source_of_its_own() -> None:
    recorded = bowl_table(30)
    sources: list[Rows] = []

    def new_source() -> Rows:
        sources.append(Rows(recorded))
        return sources[-1]

    tried = run_arm(recorded, new_source, RANDOM, NONE, repeats=3, budget_s=200.0, within_frac=0.1)
    assert tried.searches == tuple(simulate(recorded, Rows(recorded), RANDOM, NONE, seed, 200.0) for seed in (0, 1, 2))
    assert len(set(tried.searches)) == 3
    assert tried.target == pytest.approx(1.1 * recorded.finished()[0].losses[-1])
    assert tried.name == "random + none"


def test_an_arm_is_named_with_its_parameters() -> None:
    sampler = parse_sampler('{name = "tpe", n_startup_trials = 5}')
    pruner = parse_pruner('{name = "median", n_startup_trials = 4, warmup_frac = 0.3}')
    assert simulation.name(sampler, pruner) == "tpe n_startup_trials=5 + median n_startup_trials=4 warmup_frac=0.3"


def test_the_time_of_a_whole_trial_is_the_median_of_those_that_finished() -> None:
    rows = [
        row({"lr": 0.1}),
        row({"lr": 0.2}, set_up_s=3.0),
        row({"lr": 0.3}, set_up_s=50.0),
        *[row({"lr": 0.4}, (4.0,), TrialStatus.DIVERGED, set_up_s=90.0)] * 3,
    ]
    assert trial_s(table(rows)) == 15.0


# Interpolated


def test_a_surrogate_of_a_smooth_function_knows_it() -> None:
    surrogate = Surrogate(bowl_table(80))
    # The losses lie between 2 and 3.5.
    assert 0 < surrogate.error < 0.03
    assert surrogate.rank_correlation > 0.99
    assert surrogate.best == pytest.approx(bowl_table(80).finished()[0].losses[-1], abs=0.03)


@pytest.mark.parametrize(("lr", "width"), [(0.03, 0.4), (0.01, 0.7), (0.2, 0.3), (0.005, 0.25)])
def test_settings_between_the_rows_are_close_to_the_function(lr: float, width: float) -> None:
    found = Surrogate(bowl_table(80)).take({"lr": lr, "width": width})
    assert found.losses == pytest.approx(bowl(lr, width), abs=0.03)
    assert found.tokens_per_s == pytest.approx(speed(width), rel=0.02)
    assert (found.params, found.status) == ({"lr": lr, "width": width}, TrialStatus.FINISHED)


def test_a_setting_that_is_not_given_is_interpolated_at_its_base_value() -> None:
    surrogate = Surrogate(bowl_table(80))
    assert surrogate.take({"lr": 0.1}).losses == surrogate.take({"lr": 0.1, "width": 0.9}).losses


def test_other_times_are_the_medians_of_the_rows() -> None:
    recorded = bowl_table(30)
    rows = [
        Row(each.params, each.status, each.losses, each.tokens_per_s, eval_s=number, set_up_s=10.0 * number)
        for number, each in enumerate(recorded.rows)
    ]
    found = Surrogate(Table(recorded.spec, {}, recorded.tokens, tuple(rows))).take({"lr": 0.1})
    assert (found.eval_s, found.set_up_s) == (14.5, 145.0)


def test_the_error_is_that_of_rows_left_out() -> None:
    """Noise cannot be foreseen: an error on rows that were fitted would be smaller, or nothing at all."""
    assert 0.8 * 0.2 < Surrogate(bowl_table(100, noise=0.2)).error < 1.3 * 0.2
    rng = np.random.default_rng(2)
    noise = [row({"lr": float(lr)}, (5.0, float(rng.normal()))) for lr in np.geomspace(0.001, 1.0, 100)]
    assert abs(Surrogate(table(noise)).rank_correlation) < 0.35


def test_a_surrogate_is_a_source_that_is_never_used_up() -> None:
    recorded = bowl_table(20)
    surrogate = Surrogate(recorded)
    search = simulate(recorded, surrogate, TPE, NONE, 0, 1_000.0)
    assert len(search.losses) > 20
    assert search.ends_s[-1] >= 1_000.0
    assert search.losses[0] == pytest.approx(surrogate.take({"lr": 0.3, "width": 0.9}).losses[-1])


def test_a_surrogate_needs_20_finished_rows() -> None:
    enough = bowl_table(20)
    assert Surrogate(enough).take({"lr": 0.1}).losses
    diverged = row({"lr": 0.5, "width": 0.5}, (4.0, NAN), TrialStatus.DIVERGED)
    few = Table(enough.spec, {}, enough.tokens, (*enough.rows[:19], diverged))
    with pytest.raises(UserError, match=r"^a surrogate needs 20 finished rows, and the table has 19; record more$"):
        Surrogate(few)


# What is said of it


def test_a_table_in_words() -> None:
    rows = [
        row({"lr": 0.1}, (4.0, 3.5)),
        row({"lr": 0.2}, (4.0, 2.25)),
        row({"lr": 0.3}, (4.0,), TrialStatus.DIVERGED),
        row({"lr": 0.4}, (4.0, 3.0)),
    ]
    assert describe_table(table(rows), None, 840.0) == [
        "night: 4 rows, 3 finished, 2 evaluations each; best loss 2.2500, median 3.0000; 14 min of device time a search"
    ]


def test_a_surrogate_in_words() -> None:
    surrogate = Surrogate(bowl_table(40))
    surrogate.error, surrogate.rank_correlation = 0.01234, 0.987
    assert describe_table(bowl_table(40), surrogate, 60.0)[1:] == [
        "interpolated: on rows left out the final loss is 0.0123 off (root mean square), rank correlation 0.99"
    ]


def test_an_arm_in_words() -> None:
    assert describe(arm(90.0, 90.0, 90.0)) == (
        "tpe + none: found in 100% of 3 searches, median 1.5 min (95 % interval 1.5 min to 1.5 min)"
    )
    assert describe(arm(*[10.0 * k for k in range(1, 9)], INF, INF, INF)) == (
        "tpe + none: found in 73% of 11 searches, median 1.0 min (95 % interval 0.5 min to never)"
    )
    assert describe(arm(INF)) == "tpe + none: found in 0% of 1 searches, median never (95 % interval never to never)"


def test_an_arm_as_json() -> None:
    searches = (Search((10.0, 20.0), (INF, 2.5)), Search((30.0,), (INF,)), Search((7.0,), (3.0,)))
    written = json.dumps(to_json(Arm("tpe + none", searches, 3.0)), allow_nan=False)
    assert json.loads(written) == {
        "name": "tpe + none",
        "target": 3.0,
        "searches": 3,
        "reached_frac": pytest.approx(2 / 3),
        "median_s": 20.0,
        "interval_s": [7.0, None],
        "seconds": [7.0, 20.0, None],
        "best": [2.5, None, 3.0],
    }
    assert json.loads(json.dumps(to_json(arm(INF)), allow_nan=False))["median_s"] is None


# The command line's words


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("random", "random", {}),
        ('{name = "tpe"}', "tpe", {}),
        ('{name="tpe", n_startup_trials=5}', "tpe", {"n_startup_trials": 5}),
        ("{n_startup_trials = 7}", "gp", {"n_startup_trials": 7}),
    ],
)
def test_samplers_that_can_be_written(text: str, name: str, options: dict[str, Any]) -> None:
    assert (parse_sampler(text).name, parse_sampler(text).options) == (name, options)


def test_pruners_that_can_be_written() -> None:
    assert parse_pruner("none") == NONE
    assert parse_pruner("median") == PrunerSpec()
    found = parse_pruner('{name = "percentile", percentile = 25.0, audit_frac = 0.5}')
    assert (found.name, found.options, found.audit_frac) == ("percentile", {"percentile": 25.0}, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpee", "tpee: there is no sampler 'tpee', did you mean \"tpe\"?; known: tpe, random, gp, "),
        ("zzz", "zzz: there is no sampler 'zzz'; known: tpe, random, gp, "),
        ("", ": there is no sampler ''; known: tpe, "),
        ("median", "median: there is no sampler 'median'; known: tpe, "),
        ('{name = "zzz"}', "{name = \"zzz\"}: there is no sampler 'zzz'; known: tpe, "),
        (
            "{n_startup = 5}",
            "{n_startup = 5}: sampler 'gp' has no parameter 'n_startup', did you mean \"n_startup_trials\"?; it ",
        ),
        ("{seed = 5}", "{seed = 5}: sampler 'gp' has no parameter 'seed'; it takes "),
        ('{n_startup_trials = "5"}', "{n_startup_trials = \"5\"}: must be int, but it is '5'"),
        ("{name = 5}", "{name = 5}: Input should be a valid string"),
        ('{name = "tpe"', '{name = "tpe": Unclosed inline table'),
        ("{name: tpe}", "{name: tpe}: "),
    ],
)
def test_samplers_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as refusal:
        parse_sampler(text)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("text", ['{name = "tpe"', "{name: tpe}", "{n_startup_trials = 5} x"])
def test_what_is_no_toml_is_told_how_to_write_it(text: str) -> None:
    for parse in (parse_sampler, parse_pruner):
        with pytest.raises(UserError, match=re.escape("; write it as in a study file: '{name = \"tpe\"}'") + "$"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("medain", "medain: there is no pruner 'medain', did you mean \"median\"?; known: median, percentile, "),
        ("tpe", "tpe: there is no pruner 'tpe'; known: median, "),
        ("{audit_frac = 2}", "{audit_frac = 2}: Input should be less than or equal to 1"),
        (
            "{n_warmup = 3}",
            "{n_warmup = 3}: pruner 'median' has no parameter 'n_warmup', did you mean \"n_warmup_steps\"?; it takes ",
        ),
        ('{name = "none", upper = 3}', "{name = \"none\", upper = 3}: pruner 'none' has no parameter 'upper'; "),
        ("{n_startup_trials = 1.5}", "{n_startup_trials = 1.5}: must be int, but it is 1.5"),
    ],
)
def test_pruners_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as refusal:
        parse_pruner(text)
    assert refusal.value.exit_code == 2


def test_every_fault_is_told_on_a_line_of_its_own() -> None:
    with pytest.raises(UserError) as refusal:
        parse_pruner("{name = 5, audit_frac = -1}")
    assert str(refusal.value).splitlines() == [
        "{name = 5, audit_frac = -1}: Input should be a valid string",
        "{name = 5, audit_frac = -1}: Input should be greater than or equal to 0",
    ]


# --- what cannot be replayed, and tables that say little ---


@pytest.mark.parametrize(
    ("sampler", "pruner", "message"),
    [
        ({"name": "grid"}, {"name": "none"}, "grid goes through its combinations whatever happens"),
        ({"name": "brute_force"}, {"name": "none"}, "brute_force goes through its combinations whatever happens"),
        ({"name": "tpe"}, {"name": "percentile"}, "percentile: it needs percentile; add percentile"),
        ({"name": "tpe"}, {"name": "wilcoxon"}, "wilcoxon compares trials by their seeds, and a table"),
        ({"name": "tpe"}, {"name": "median", "warmup_frac": 2.0}, "warmup_frac is a share of the budget"),
    ],
)
def test_what_cannot_be_replayed_is_refused(sampler: dict[str, Any], pruner: dict[str, Any], message: str) -> None:
    recorded = table([row({"lr": 0.01})])
    with pytest.raises(UserError, match=message):
        simulation.check(recorded, SamplerSpec.model_validate(sampler), PrunerSpec.model_validate(pruner))
    simulation.check(recorded, TPE, NONE)


@pytest.mark.parametrize("objective", ["loss_at_equal_seconds", "loss_and_seconds"])
def test_a_replay_is_of_equal_tokens(objective: str) -> None:
    recorded = table([row({"lr": 0.01})])
    recorded = replace(recorded, spec=recorded.spec.model_copy(update={"objective": objective}))
    with pytest.raises(UserError, match=f"night has the objective {objective}, and a replay compares losses at equal"):
        simulation.check(recorded, TPE, NONE)


FLAT = {
    **LR,
    "one": {"choices": [7]},
    "fixed": {"low": 2.0, "high": 2.0},
    "rare": {"choices": ["usual", "rare"]},
}


def test_settings_that_never_change_do_not_matter_to_a_surrogate() -> None:
    """One has a single choice, one a single value, and one differs in a single row."""
    rates = [10 ** (-3 + 3 * index / 30) for index in range(30)]
    base = {"lr": 0.01, "one": 7, "fixed": 2.0, "rare": "usual"}
    rows = [
        row({**base, "lr": rate, "rare": "rare" if index == 11 else "usual"}, (4.0, 3.0 + math.log10(rate / 0.05) ** 2))
        for index, rate in enumerate(rates)
    ]
    surrogate = Surrogate(table([*rows, rows[5]], FLAT, base))  # and one was trained twice
    assert surrogate.error < 0.05 and surrogate.rank_correlation > 0.98
    assert surrogate.take({**base, "lr": 0.05}).losses[-1] == pytest.approx(3.0, abs=0.05)


def test_a_surrogate_of_equal_curves_is_that_curve() -> None:
    rows = [row({"lr": 10 ** (-3 + index / 10)}, (4.0, 3.0)) for index in range(30)]
    surrogate = Surrogate(table(rows))
    assert (surrogate.error, surrogate.rank_correlation) == (pytest.approx(0.0, abs=1e-12), 0.0)
    assert surrogate.take({"lr": 0.5}).losses == pytest.approx((4.0, 3.0))


def test_many_settings_need_more_rows() -> None:
    space = {f"x{index}": {"low": 0.0, "high": 1.0} for index in range(20)}
    base = dict.fromkeys(space, 0.5)
    rows = [row(dict.fromkeys(space, place * 37 % 41 / 41)) for place in range(41)]
    with pytest.raises(UserError, match="a surrogate needs 42 finished rows, and the table has 41; record more"):
        Surrogate(table(rows, space, base))


def test_arms_that_differ_in_the_audit_have_names_that_differ() -> None:
    assert simulation.name(TPE, PrunerSpec.model_validate({"name": "median", "audit_frac": 0.5})) == (
        "tpe + median audit_frac=0.5"
    )
