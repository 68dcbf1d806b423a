"""Other ways to search, on tables worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import peer_tools
import peers
import pytest
from recorded_tables import bowl_table, row, table
from replay_task import Task

from autotune.core.records import TrialStatus
from autotune.replay.simulation import Search, simulate
from autotune.replay.sources import Rows
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

INF, NAN = math.inf, math.nan
RANDOM, NONE = SamplerSpec(name="random"), PrunerSpec(name="none")


def test_the_best_of_a_first_rung_go_on_without_another_set_up() -> None:
    """Baseline 14 s, then rounds of four at 8 s each whose best one takes 6 s more; the last round has two rows."""
    curves = [(3.0, 2.9), (3.1, 2.0), (3.2, 2.5), (NAN, NAN), (3.3, 2.4), (3.4, 2.3)]
    rows = [
        row({"lr": 0.1 * index}, losses, TrialStatus.FINISHED if math.isfinite(losses[0]) else TrialStatus.DIVERGED)
        for index, losses in enumerate(curves, 1)
    ]
    recorded = table([row({"lr": 0.01}, (5.0, 4.0)), *rows])

    whole = {peers.top_of_first_rung(Task(recorded, seed, 1_000.0), settings=6, kept=2) for seed in range(5)}
    assert whole == {Search((14.0, 14.0 + 6 * 8.0 + 6.0, 14.0 + 6 * 8.0 + 12.0), (4.0, 2.9, 2.0))}

    rounds = peers.top_of_first_rung(Task(recorded, 0, 1_000.0), settings=4, kept=1)
    assert rounds.ends_s == (14.0, 14.0 + 4 * 8.0 + 6.0, 14.0 + 4 * 8.0 + 6.0 + 2 * 8.0 + 6.0)


def test_no_round_begins_after_the_time() -> None:
    recorded = table([row({"lr": 0.01 * index}) for index in range(1, 40)])
    assert len(peers.top_of_first_rung(Task(recorded, 0, 14.0)).losses) == 1
    # One more setting begins, and being the best of its round it is trained to the end.
    assert peers.top_of_first_rung(Task(recorded, 0, 14.1)).ends_s == (14.0, 28.0)


def test_optuna_as_it_ships_is_counted_as_the_engines_own_search() -> None:
    recorded = table([row({"lr": 0.01 * index}, (4.0 + index % 5, 3.0 + index % 7)) for index in range(1, 40)])
    plain = peers.optuna_search(Task(recorded, 3, 200.0), sampler="RandomSampler", pruner="none")
    assert plain == simulate(recorded, Rows(recorded), RANDOM, NONE, 3, 200.0)


def test_optuna_as_it_ships_runs_no_audits() -> None:
    recorded = table([row({"lr": 0.01}), *(row({"lr": 0.02 * index}, (6.0, 2.0)) for index in range(1, 45))])
    stopped = peers.optuna_search(
        Task(recorded, 0, 1_000.0), sampler="RandomSampler", pruner="threshold", options={"upper": 5.0}
    )
    assert stopped.losses == (3.0, *[INF] * 44)


@pytest.mark.parametrize("method", [peers.OURS, peers.REFERENCE, peers.RANDOM, *peers.OTHERS], ids=lambda it: it.name)
@pytest.mark.parametrize("way", ["nearest", "pool"])
def test_every_method_begins_with_the_default_and_takes_each_row_once(method: peers.Method, way: Any) -> None:
    recorded = bowl_table(24)
    task = Task(recorded, 1, 10_000.0, way)
    search = method.search(task)

    assert task.num_taken == 24
    assert search.losses[0] == Rows(recorded).take(task.baseline).losses[-1]
    finished = sorted(loss for loss in search.losses if math.isfinite(loss))
    assert set(finished) <= {each.losses[-1] for each in recorded.rows} and len(set(finished)) == len(finished)
    assert method.search(Task(recorded, 1, 10_000.0, way)) == search


def test_what_is_not_installed_is_said_and_left_out() -> None:
    here = peers.Method("here", peers.top_of_first_rung, "json")
    absent = peers.Method("absent", peers.top_of_first_rung, "no_such_package")
    methods, reasons = peer_tools.available((here, absent))
    assert methods == [here]
    assert reasons == ["no_such_package is skipped: No module named 'no_such_package'"]
