"""The account of device time that tools are held to, on tables worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from recorded_tables import row, table
from replay_device import Device, first_rung
from replay_task import Task

from autotune.core.records import TrialStatus
from autotune.replay.simulation import Search, simulate
from autotune.replay.sources import Rows
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

NAN = math.nan


def test_set_up_is_paid_once_and_a_reached_evaluation_costs_nothing_again() -> None:
    device = Device(Task(table([row({"lr": 0.01}), row({"lr": 0.1}, (5.0, 2.0))]), 0, 1_000.0))
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
    recorded = table([row({"lr": 0.01}, losses, status), row({"lr": 0.5})])
    device = Device(Task(recorded, 0, 1_000.0))
    training = device.begin({"lr": 0.01})
    assert [(training.to(evaluation), device.now_s) for evaluation in (1, 2)] == list(
        zip(reached, seconds, strict=True)
    )
    assert len(device.searched().losses) == (status is TrialStatus.FINISHED)
    whole = simulate(recorded, Rows(recorded), SamplerSpec(name="random"), PrunerSpec(name="none"), 0, 1.0)
    assert whole.ends_s == (seconds[-1],)


def test_nothing_begins_after_the_time_or_the_rows_are_over() -> None:
    device = Device(Task(table([row({"lr": 0.01}), row({"lr": 0.1})]), 0, 14.0))
    device.begin({"lr": 0.01}).to(1)
    assert device.begin({"lr": 0.01}).row.params == {"lr": 0.1}
    assert device.has_time and device.begin({"lr": 0.01}) is None
    late = Device(Task(table([row({"lr": 0.01}), row({"lr": 0.1})]), 0, 14.0))
    late.begin({"lr": 0.01}).to(2)
    assert not late.has_time and late.begin({"lr": 0.01}) is None


@pytest.mark.parametrize(("evaluations", "first"), [(1, 1), (2, 1), (9, 1), (10, 1), (18, 2), (20, 2), (27, 3)])
def test_the_first_rung_is_the_evaluation_nearest_to_a_ninth(evaluations: int, first: int) -> None:
    tokens = [90 * index // evaluations for index in range(1, evaluations + 1)]
    assert first_rung(table([row({"lr": 0.01})], tokens=tokens)) == first
