"""Samplers and pruners compared over several seeds, in figures, words and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from recorded_tables import bowl_table, row, table

from autotune.core.metric import Metric
from autotune.core.records import TrialStatus
from autotune.replay.algorithms import parse_pruner, parse_sampler
from autotune.replay.arms import Arm, arm_name, describe, describe_table, run_arm, to_json, trial_s
from autotune.replay.simulation import Search, simulate
from autotune.replay.sources import Rows
from autotune.replay.surrogate import Surrogate
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

INF = math.inf
RANDOM = SamplerSpec(name="random")
TPE = SamplerSpec(name="tpe")
NONE = PrunerSpec(name="none")


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
    assert arm_name(sampler, pruner) == "tpe n_startup_trials=5 + median n_startup_trials=4 warmup_frac=0.3"


def test_arms_that_differ_in_the_audit_have_names_that_differ() -> None:
    assert arm_name(TPE, PrunerSpec.model_validate({"name": "median", "audit_frac": 0.5})) == (
        "tpe + median audit_frac=0.5"
    )


def test_a_sampler_that_learns_finds_the_best_sooner_than_one_that_does_not() -> None:
    recorded = bowl_table(120)
    median_s = {
        sampler.name: run_arm(
            recorded, lambda: Rows(recorded), sampler, NONE, repeats=7, budget_s=2_000.0, within_frac=0.005
        ).median_s
        for sampler in (TPE, RANDOM)
    }
    assert median_s["tpe"] < 0.9 * median_s["random"]


def test_the_time_of_a_whole_trial_is_the_median_of_those_that_finished() -> None:
    rows = [
        row({"lr": 0.1}),
        row({"lr": 0.2}, set_up_s=3.0),
        row({"lr": 0.3}, set_up_s=50.0),
        *[row({"lr": 0.4}, (4.0,), TrialStatus.DIVERGED, set_up_s=90.0)] * 3,
    ]
    assert trial_s(table(rows)) == 15.0


def test_a_table_in_words() -> None:
    rows = [
        row({"lr": 0.1}, (4.0, 3.5)),
        row({"lr": 0.2}, (4.0, 2.25)),
        row({"lr": 0.3}, (4.0,), TrialStatus.DIVERGED),
        row({"lr": 0.4}, (4.0, 3.0)),
    ]
    assert describe_table(table(rows), None, 840.0) == [
        "night: 4 rows, 3 finished, 2 evaluations each; best loss 2.2500, median 3.0000; "
        "14 min of device time per search"
    ]


def test_a_metric_of_which_more_is_better_is_told_in_its_own_words_and_sign() -> None:
    rows = [row({"lr": 0.1}, (-0.5, -0.75)), row({"lr": 0.2}, (-0.5, -0.5))]
    recorded = replace(table(rows), metric=Metric(name="accuracy", maximize=True))
    assert "best accuracy 0.75000, median 0.50000; " in describe_table(recorded, None, 840.0)[0]

    arm = run_arm(recorded, lambda: Rows(recorded), RANDOM, NONE, repeats=2, budget_s=600.0, within_frac=0.1)
    told = to_json(arm)
    assert told["target"] == pytest.approx(0.9 * 0.75) and told["best"] == [0.75, 0.75]


def test_a_surrogate_in_words() -> None:
    surrogate = Surrogate(bowl_table(40))
    surrogate.error, surrogate.rank_correlation = 0.01234, 0.987
    assert describe_table(bowl_table(40), surrogate, 60.0)[1:] == [
        "interpolated: the final loss predicted for rows left out is 0.0123 off (root mean square), "
        "rank correlation 0.99"
    ]


def test_an_arm_in_words() -> None:
    assert describe(arm(90.0, 90.0, 90.0)) == (
        "tpe + none: good settings found in 100% of 3 searches, median 1.5 min (95 % interval 1.5 min to 1.5 min)"
    )
    assert describe(arm(*[10.0 * k for k in range(1, 9)], INF, INF, INF)) == (
        "tpe + none: good settings found in 73% of 11 searches, median 1.0 min (95 % interval 0.5 min to never)"
    )
    assert describe(arm(INF)) == (
        "tpe + none: good settings found in 0% of 1 searches, median never (95 % interval never to never)"
    )


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
