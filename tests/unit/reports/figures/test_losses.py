import math

import numpy as np
import pandas as pd
import pytest
import study_builder

from autotune.store.study_record import StudyRecord
from reports.figures import losses, trade_offs
from reports.tables.curves import curves_table
from reports.tables.finals import finals_runs, finals_table
from reports.tables.pruning import pruning_audit
from reports.tables.trials import trials_table


def traces(figure: object) -> dict[str, object]:
    return {trace.name: trace for trace in figure.data}  # type: ignore[attr-defined]


def test_best_so_far_tells_statuses_apart_by_shape(night: StudyRecord) -> None:
    drawn = traces(losses.best_so_far(trials_table(night), 5.02, 0.01))

    assert list(drawn) == [
        "default ± noise", "finished", "pruned", "diverged", "out of memory", "crashed", "interrupted", "best so far",
    ]  # fmt: skip
    symbols = [trace.marker.symbol for name, trace in drawn.items() if "default" not in name and name != "best so far"]
    assert len(set(symbols)) == 6
    assert list(drawn["finished"].x) == [0, 1, 3, 6, 9, 10]
    assert list(drawn["best so far"].y) == [5.0, 4.8, 4.8, 4.6, 4.6, 4.6]


def test_best_so_far_keeps_losses_off_the_scale_at_the_edge() -> None:
    wild = study_builder.trial(1, "diverged", [1e9], study_builder.settings(0.1, 0.0, 8, 1))
    lost = study_builder.trial(2, "crashed", [], study_builder.settings(0.1, 0.0, 8, 1))
    record = study_builder.study(trials=(*study_builder.search_trials()[:1], wild, lost))
    figure = losses.best_so_far(trials_table(record), 5.02, None)
    low, high = figure.layout.yaxis.range

    assert low < 5.0 < high < 6.0
    assert list(traces(figure)["diverged"].y) == [high] and list(traces(figure)["crashed"].y) == [high]
    assert traces(figure)["diverged"].text[0] == "trial 1: diverged, loss 1000000000.0000"
    assert traces(figure)["crashed"].text[0] == "trial 2: crashed, no loss"


def test_one_poor_trial_does_not_squeeze_the_others_of_a_figure() -> None:
    """Ten losses from 4.50 to 4.59, and one of 9."""
    space = study_builder.settings(0.02, 0.0, 8, 1)
    ends = [4.5 + number / 100 for number in range(10)] + [9.0]
    trials = [study_builder.trial(place, "finished", [6.0, 5.0, loss], space) for place, loss in enumerate(ends)]
    record = study_builder.study(trials=tuple(trials))
    table = trials_table(record)

    for figure in (
        losses.best_so_far(table, 4.55, None),
        losses.pruning_audit(pruning_audit(record)),
        trade_offs.speed_against_loss(table, 0),
    ):
        low, high = figure.layout.yaxis.range
        assert 4.4 < low < 4.5 and 4.59 < high < 4.7
        highest = max(loss for trace in figure.data if trace.mode == "markers" for loss in trace.y if loss)
        assert highest == pytest.approx(high)


def test_rings_say_which_trials_matter(night: StudyRecord) -> None:
    called = {0: "default", 6: "winner, promoted", 9: "lowest single run", 4: "crashed ones have no place"}
    figure = losses.best_so_far(trials_table(night), 5.02, 0.01, called)
    drawn = traces(figure)

    assert (drawn["winner, promoted (trial 6)"].x, drawn["winner, promoted (trial 6)"].y) == ((6,), (4.6,))
    symbols = [drawn[name].marker.symbol for name in ("winner, promoted (trial 6)", "lowest single run (trial 9)")]
    assert len(set(symbols)) == 2
    assert not any("trial 4" in name for name in drawn)


def test_an_interval_of_two_seeds_does_not_squeeze_the_runs() -> None:
    runs = pd.DataFrame(
        {"arm": [0, 0], "arm_name": ["default"] * 2, "stage": "prove", "seed": [1, 2], "loss": [4.0, 4.1]}
    )
    arms = finals_table(runs)
    assert arms["high"][0] - arms["low"][0] > 1.2
    low, high = losses.finals(runs, arms, {0: "default, promoted"}).layout.xaxis.range
    assert (low, high) == pytest.approx((3.9 - 0.018, 4.2 + 0.018))
    assert losses.finals(runs, arms, {0: "default, promoted"}).layout.yaxis.ticktext == ("default<br>promoted",)


def test_baseline_band_is_two_sigma_wide(night: StudyRecord) -> None:
    shapes = losses.best_so_far(trials_table(night), 5.02, 0.01).layout.shapes

    assert [(shape.y0, shape.y1) for shape in shapes if shape.type == "rect"] == [pytest.approx((5.0, 5.04))]
    assert [shape.y0 for shape in shapes if shape.type == "line"] == [5.02]


def test_without_any_loss_the_axis_still_has_a_range() -> None:
    figure = losses.best_so_far(trials_table(study_builder.empty_study()), None, None)
    low, high = figure.layout.yaxis.range

    assert low < high


def test_finals_show_means_with_intervals_default_first(night: StudyRecord) -> None:
    runs = finals_runs(night)
    figure = losses.finals(runs, finals_table(runs))
    drawn = traces(figure)

    assert list(figure.layout.yaxis.categoryarray) == ["default", "trial 6", "trial 9"]
    default = drawn["default: mean, 95 % interval"]
    assert default.x[0] == pytest.approx(5.02)
    assert default.error_x.array[0] == pytest.approx(4.302653 * 0.01 / math.sqrt(3))
    finalists = drawn["finalist: mean, 95 % interval"]
    assert list(finalists.y) == ["trial 6", "trial 9"] and finalists.error_x.array[1] == 0
    assert list(drawn["chose the winner"].x) == [4.61, 4.75]
    assert len(drawn["fresh seeds"].x) == 6


def test_learning_curves_draw_a_band_the_best_and_the_default(forty: StudyRecord) -> None:
    trials = trials_table(forty)
    best = int(trials.nsmallest(1, "loss")["number"].iloc[0])
    called = {0: "default, promoted", best: "lowest single run", 1: "winner"}
    figure = losses.learning_curves(curves_table(forty.trials), trials, 0, called)
    names = [trace.name for trace in figure.data]

    assert names[0] == "10–90 % of trials"
    assert names[-3:] == [f"lowest single run (trial {best})", "winner (trial 1)", "default, promoted"]
    assert len(figure.data) <= 3 + losses.BEST_CURVES
    assert traces(figure)["default, promoted"].line.dash == "dash"
    assert len(traces(figure)["default, promoted"].x) == 20


def test_learning_curves_leave_gaps_for_losses_that_are_not_finite() -> None:
    trial = study_builder.trial(0, "finished", [6.0, math.inf, 5.0], study_builder.settings(0.02, 0.0, 8, 1))
    record = study_builder.study(trials=(trial,))
    figure = losses.learning_curves(curves_table(record.trials), trials_table(record), None, {0: "winner"})

    assert np.isnan(traces(figure)["winner (trial 0)"].y[1])


def test_pruning_audit_marks_the_median(night: StudyRecord) -> None:
    figure = losses.pruning_audit(pruning_audit(night))

    assert figure.layout.xaxis.title.text == "loss at 500 tokens"
    assert figure.layout.shapes[0].x0 == pytest.approx((5.35 + 5.4) / 2)
