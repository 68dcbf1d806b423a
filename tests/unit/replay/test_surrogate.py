"""Curves between the rows of a table, against the function that the rows come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from recorded_tables import LR, bowl, bowl_table, row, speed, table

from autotune.core.errors import UserError
from autotune.core.records import TrialStatus
from autotune.replay.simulation import simulate
from autotune.replay.surrogate import Surrogate
from autotune.replay.table import Row, Table
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

NAN = math.nan
TPE = SamplerSpec(name="tpe")
NONE = PrunerSpec(name="none")


def test_a_surrogate_of_a_smooth_function_knows_it() -> None:
    surrogate = Surrogate(bowl_table(80))
    # The losses lie between 2 and 3.5.
    assert 0 < surrogate.error < 0.03
    assert surrogate.rank_correlation > 0.99
    assert surrogate.best == pytest.approx(bowl_table(80).finished()[0].losses[-1], abs=0.03)


@pytest.mark.parametrize(("lr", "width"), [(0.03, 0.4), (0.01, 0.7), (0.2, 0.3), (0.005, 0.25)])
def test_settings_between_the_rows_are_close_to_the_function(lr: float, width: float) -> None:
    expected = Surrogate(bowl_table(80)).take({"lr": lr, "width": width})
    assert expected.losses == pytest.approx(bowl(lr, width), abs=0.03)
    assert expected.tokens_per_s == pytest.approx(speed(width), rel=0.02)
    assert (expected.params, expected.status) == ({"lr": lr, "width": width}, TrialStatus.FINISHED)


def test_a_setting_that_is_not_given_is_interpolated_at_its_base_value() -> None:
    surrogate = Surrogate(bowl_table(80))
    assert surrogate.take({"lr": 0.1}).losses == surrogate.take({"lr": 0.1, "width": 0.9}).losses


def test_other_times_are_the_medians_of_the_rows() -> None:
    recorded = bowl_table(30)
    rows = [
        Row(each.params, each.status, each.losses, each.tokens_per_s, eval_s=number, set_up_s=10.0 * number)
        for number, each in enumerate(recorded.rows)
    ]
    expected = Surrogate(Table(recorded.spec, {}, recorded.tokens, tuple(rows))).take({"lr": 0.1})
    assert (expected.eval_s, expected.set_up_s) == (14.5, 145.0)


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


def test_many_settings_need_more_rows() -> None:
    space = {f"x{index}": {"low": 0.0, "high": 1.0} for index in range(20)}
    base = dict.fromkeys(space, 0.5)
    rows = [row(dict.fromkeys(space, place * 37 % 41 / 41)) for place in range(41)]
    with pytest.raises(UserError, match="a surrogate needs 42 finished rows, and the table has 41; record more"):
        Surrogate(table(rows, space, base))


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
