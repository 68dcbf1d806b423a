"""The account of device time that other ways to search are held to, on tables worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import bench_replay
import peers
import pytest

from autotune.core.records import TrialStatus
from autotune.replay.simulation import Search, simulate
from autotune.replay.sources import Rows
from autotune.replay.table import Row, Table
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.spec import StudySpec

INF, NAN = math.inf, math.nan


def row(lr: float, losses: Sequence[float] = (4.0, 3.0), status: TrialStatus = TrialStatus.FINISHED) -> Row:
    """A row of 2 s to set up, 5 s for each of two halves and 1 s for each of two evaluations: 8 s and 14 s."""
    return Row({"lr": lr}, status, tuple(losses), tokens_per_s=100.0, eval_s=1.0, set_up_s=2.0)


def table(*rows: Row, tokens: Sequence[int] = (500, 1_000), space: Mapping[str, Any] | None = None) -> Table:
    spec = StudySpec.model_validate(
        {
            "name": "night",
            "budget": {"tokens": tokens[-1]},
            "base": {"lr": 0.01, "kind": "a", "beta": 0.5},
            "space": space or {"lr": {"low": 0.001, "high": 1.0, "log": True}},
        }
    )
    return Table(spec, {}, tuple(tokens), rows)


# One device


def test_set_up_is_paid_once_and_a_reached_evaluation_costs_nothing_again() -> None:
    device = peers.Device(table(row(0.01), row(0.1, (5.0, 2.0))), 1_000.0)
    first, second = device.begin({"lr": 0.01}), device.begin({"lr": 0.1})
    assert (first.to(1), device.now_s) == (4.0, 8.0)
    assert (second.to(2), device.now_s) == (2.0, 22.0)
    assert (first.to(1), device.now_s) == (4.0, 22.0)
    assert (first.to(2), device.now_s) == (3.0, 28.0)
    assert (first.to(2), device.now_s) == (3.0, 28.0)
    assert device.searched() == Search((22.0, 28.0), (2.0, 3.0))


@pytest.mark.parametrize(
    ("losses", "status", "reached", "seconds"),
    [
        ((4.0, 3.0), TrialStatus.FINISHED, [4.0, 3.0], [8.0, 14.0]),
        ((4.0, NAN), TrialStatus.DIVERGED, [4.0, None], [8.0, 14.0]),
        ((NAN,), TrialStatus.DIVERGED, [None, None], [8.0, 8.0]),
        ((4.5,), TrialStatus.DIVERGED, [None, None], [8.0, 8.0]),
        ((4.0, 4.1), TrialStatus.DIVERGED, [4.0, None], [8.0, 14.0]),
        ((), TrialStatus.OUT_OF_MEMORY, [None, None], [8.0, 8.0]),
    ],
)
def test_what_breaks_off_takes_the_time_that_the_replay_counts(
    losses: Sequence[float], status: TrialStatus, reached: list[float | None], seconds: list[float]
) -> None:
    recorded = table(row(0.01, losses, status), row(0.5))
    device = peers.Device(recorded, 1_000.0)
    training = device.begin({"lr": 0.01})
    assert [(training.to(evaluation), device.now_s) for evaluation in (1, 2)] == list(
        zip(reached, seconds, strict=True)
    )
    assert len(device.searched().losses) == (status is TrialStatus.FINISHED)
    whole = simulate(recorded, Rows(recorded), SamplerSpec(name="random"), PrunerSpec(name="none"), 0, 1.0)
    assert whole.ends_s == (seconds[-1],)


def test_nothing_begins_after_the_time_or_the_rows_are_over() -> None:
    device = peers.Device(table(row(0.01), row(0.1)), 14.0)
    device.begin({"lr": 0.01}).to(1)
    assert device.begin({"lr": 0.01}).row.params == {"lr": 0.1}
    assert device.has_time and device.begin({"lr": 0.01}) is None
    late = peers.Device(table(row(0.01), row(0.1)), 14.0)
    late.begin({"lr": 0.01}).to(2)
    assert not late.has_time and late.begin({"lr": 0.01}) is None


@pytest.mark.parametrize(("evaluations", "first"), [(1, 1), (2, 1), (9, 1), (10, 1), (18, 2), (20, 2), (27, 3)])
def test_the_first_rung_is_the_evaluation_nearest_to_a_ninth(evaluations: int, first: int) -> None:
    tokens = [90 * index // evaluations for index in range(1, evaluations + 1)]
    assert peers.first_rung(table(row(0.01), tokens=tokens)) == first


# The best of a first rung


def test_the_best_of_a_first_rung_go_on_without_another_set_up() -> None:
    """Baseline 14 s, then rounds of four at 8 s each whose best one takes 6 s more; the last round has two rows."""
    curves = [(3.0, 2.9), (3.1, 2.0), (3.2, 2.5), (NAN, NAN), (3.3, 2.4), (3.4, 2.3)]
    rows = [
        row(0.1 * index, losses, TrialStatus.FINISHED if math.isfinite(losses[0]) else TrialStatus.DIVERGED)
        for index, losses in enumerate(curves, 1)
    ]
    recorded = table(row(0.01, (5.0, 4.0)), *rows)
    whole = {peers.top_of_first_rung(recorded, seed, 1_000.0, settings=6, kept=2) for seed in range(5)}
    assert whole == {Search((14.0, 14.0 + 6 * 8.0 + 6.0, 14.0 + 6 * 8.0 + 12.0), (4.0, 2.9, 2.0))}
    rounds = peers.top_of_first_rung(recorded, 0, 1_000.0, settings=4, kept=1)
    assert rounds.ends_s == (14.0, 14.0 + 4 * 8.0 + 6.0, 14.0 + 4 * 8.0 + 6.0 + 2 * 8.0 + 6.0)


def test_no_round_begins_after_the_time() -> None:
    recorded = table(*(row(0.01 * index) for index in range(1, 40)))
    assert len(peers.top_of_first_rung(recorded, 0, 14.0).losses) == 1
    # One more setting begins, and being the best of its round it is trained to the end.
    assert peers.top_of_first_rung(recorded, 0, 14.1).ends_s == (14.0, 28.0)


def test_random_settings_are_of_the_space_and_the_seeds_own() -> None:
    space = {
        "kind": {"choices": ["a", "b"]},
        "lr": {"low": 0.001, "high": 1.0, "log": True},
        "beta": {"low": 0.0, "high": 1.0, "when": {"kind": "a"}},
    }
    spec = table(row(0.01), space=space).spec
    drawn = list(itertools.islice(peers.random_settings(spec, 3), 50))
    assert drawn == list(itertools.islice(peers.random_settings(spec, 3), 50))
    assert drawn[:5] != list(itertools.islice(peers.random_settings(spec, 4), 5))
    assert all(("beta" in params) == (params["kind"] == "a") for params in drawn)
    assert all(0.001 <= params["lr"] <= 1.0 for params in drawn)


# Optuna as it ships


def test_optuna_as_it_ships_is_counted_as_the_engines_own_search() -> None:
    recorded = table(*(row(0.01 * index, (4.0 + index % 5, 3.0 + index % 7)) for index in range(1, 40)))
    plain = peers.optuna_search(recorded, 3, 200.0, sampler="RandomSampler", pruner="none")
    assert plain == simulate(recorded, Rows(recorded), SamplerSpec(name="random"), PrunerSpec(name="none"), 3, 200.0)


def test_optuna_as_it_ships_runs_no_audits() -> None:
    recorded = table(row(0.01), *(row(0.02 * index, (6.0, 2.0)) for index in range(1, 45)))
    stopped = peers.optuna_search(
        recorded, 0, 1_000.0, sampler="RandomSampler", pruner="threshold", options={"upper": 5.0}
    )
    assert stopped.losses == (3.0, *[INF] * 44)


# What is printed


def test_what_is_not_installed_is_said_and_left_out() -> None:
    here, absent = peers.Method("here", peers.top_of_first_rung, "json"), peers.Method("absent", len, "no_such_package")
    methods, reasons = peers.available((here, absent))
    assert methods == [here]
    assert reasons == ["no_such_package is skipped: No module named 'no_such_package'"]


def test_figures_by_hand() -> None:
    """The best row is 2.0, so that 2.01 is found and 2.02 is not; a whole trial takes 14 s."""
    recorded = table(row(0.01, (4.0, 3.0)), row(0.1, (4.0, 2.0)), row(0.2, (4.0, 2.01)), row(0.3, (4.0, 2.02)))
    searches = (Search((60.0, 70.0), (2.02, 2.01)), Search((60.0, 70.0, 300.0), (3.0, 2.02, 2.0)))
    found = {"ours": searches[:1], "other": (*searches, Search((60.0, 600.0), (3.0, 2.0)))}
    assert bench_replay.figures(recorded, found) == [
        "| method | found | minutes (95 % interval) | / ours | 5 trials | 10 trials | 20 trials | 40 trials |",
        "|---|---|---|---|---|---|---|---|",
        "| ours | 100% | 1.17 (1.17-1.17) | 1.00 | 0.50% | 0.50% | 0.50% | 0.50% |",
        "| other | 100% | 5.00 (1.17-10.00) | 4.29 | 1.00% | 1.00% | 1.00% | 0.50% |",
    ]
    never = bench_replay.figures(recorded, {"ours": searches[:1], "other": (Search((100.0,), (3.0,)),)})
    assert never[-1] == "| other | 0% | never (never-never) | - | - | 50.00% | 50.00% | 50.00% |"
    assert "; 2 rows within 0.5% of the best." in bench_replay.describe(recorded, 30, 100.0)
