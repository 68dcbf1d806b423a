"""Which row stands for a proposal, worked out by hand."""

from __future__ import annotations

from recorded_tables import CONDITIONAL, CONDITIONAL_BASE, row, table

from autotune.core.records import TrialStatus
from autotune.replay.sources import Rows


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


def test_the_rows_left_are_those_not_taken() -> None:
    rows = [row({"lr": lr}) for lr in (0.5, 0.01, 0.003)]
    source = Rows(table(rows))
    source.take({"lr": 0.01})
    assert source.left == [rows[0], rows[2]]
