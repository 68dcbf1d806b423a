import math

import numpy as np
import pandas as pd
import pytest
import study_builder

from autotune.search.space import Dimension
from autotune.store.study_store import StudyRecord
from reports import audits, figures, machine_figures, settings_figures, tables


def traces(figure: object) -> dict[str, object]:
    return {trace.name: trace for trace in figure.data}  # type: ignore[attr-defined]


def test_best_so_far_tells_statuses_apart_by_shape(night: StudyRecord) -> None:
    drawn = traces(figures.best_so_far(tables.trials_table(night), 5.02, 0.01))

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
    figure = figures.best_so_far(tables.trials_table(record), 5.02, None)
    low, high = figure.layout.yaxis.range

    assert low < 5.0 < high < 6.0
    assert list(traces(figure)["diverged"].y) == [high] and list(traces(figure)["crashed"].y) == [high]
    assert traces(figure)["diverged"].text[0] == "trial 1: diverged, loss 1000000000.0000"
    assert traces(figure)["crashed"].text[0] == "trial 2: crashed, no loss"


def test_baseline_band_is_two_sigma_wide(night: StudyRecord) -> None:
    shapes = figures.best_so_far(tables.trials_table(night), 5.02, 0.01).layout.shapes

    assert [(shape.y0, shape.y1) for shape in shapes if shape.type == "rect"] == [pytest.approx((5.0, 5.04))]
    assert [shape.y0 for shape in shapes if shape.type == "line"] == [5.02]


def test_visible_range_without_any_loss() -> None:
    low, high = figures.visible_range(tables.trials_table(study_builder.empty_study()), None)

    assert low < high and math.isfinite(low)


def test_finals_show_means_with_intervals_default_first(night: StudyRecord) -> None:
    runs = tables.finals_runs(night)
    figure = figures.finals(runs, tables.finals_table(runs))
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
    trials = tables.trials_table(forty)
    figure = figures.learning_curves(tables.curves_table(forty.trials), trials, 0)
    names = [trace.name for trace in figure.data]

    best = int(trials.nsmallest(1, "loss")["number"].iloc[0])
    assert names[0] == "10–90 % of trials" and f"best (trial {best})" in names and "default" in names
    assert len(figure.data) <= 2 + figures.BEST_CURVES
    assert traces(figure)["default"].line.dash == "dash"
    assert len(traces(figure)["default"].x) == 20


def test_learning_curves_leave_gaps_for_losses_that_are_not_finite() -> None:
    trial = study_builder.trial(0, "finished", [6.0, math.inf, 5.0], study_builder.settings(0.02, 0.0, 8, 1))
    record = study_builder.study(trials=(trial,))
    figure = figures.learning_curves(tables.curves_table(record.trials), tables.trials_table(record), None)

    assert np.isnan(traces(figure)["best (trial 0)"].y[1])


def test_a_setting_is_drawn_on_its_own_scale_with_the_best_and_its_edge(night: StudyRecord) -> None:
    settings = tables.settings_table(night)
    figure = settings_figures.setting_against_loss(
        "optim.muon_lr", night.spec.space["optim.muon_lr"], settings["optim.muon_lr"], tables.trials_table(night),
        0.09, "high",
    )  # fmt: skip

    assert figure.layout.xaxis.type == "log" and figure.layout.xaxis.title.text == "optim.muon_lr (log)"
    assert list(figure.data[0].x) == [0.02, 0.03, 0.005, 0.05, 0.04, 0.03]
    assert list(figure.data[0].y) == [5.0, 4.8, 5.2, 4.6, 4.7, 4.9]
    assert figure.layout.shapes[0].x0 == 0.09
    assert "edge" in figure.layout.annotations[0].text


def test_a_setting_is_drawn_over_its_whole_range_also_where_all_trials_chose_the_same() -> None:
    trials = [study_builder.trial(number, "finished", [5.0], {"model.dropout": 0.0}) for number in range(3)]
    record = study_builder.study(trials=tuple(trials))
    dimension = record.spec.space["model.dropout"]
    settings = tables.settings_table(record)["model.dropout"]
    figure = settings_figures.setting_against_loss(
        "model.dropout", dimension, settings, tables.trials_table(record), 0.0, "low"
    )

    low, high = figure.layout.xaxis.range
    assert dimension.high is not None and -0.1 * dimension.high < low < 0 and dimension.high < high
    assert figure.layout.xaxis.range[1] < 1.1 * dimension.high


def test_choices_stand_evenly_in_their_order(night: StudyRecord) -> None:
    settings = tables.settings_table(night)
    dimension = night.spec.space["model.num_experts"]
    figure = settings_figures.setting_against_loss(
        "model.num_experts", dimension, settings["model.num_experts"], tables.trials_table(night), 16, ""
    )

    assert list(figure.layout.xaxis.ticktext) == ["4", "8", "16"]
    assert list(figure.data[0].x) == [1, 1, 0, 2, 2, 1]
    assert figure.layout.shapes[0].x0 == 2
    assert not figure.layout.annotations


def test_a_pair_tells_trials_apart_by_their_rank(night: StudyRecord) -> None:
    names = ("optim.muon_lr", "model.num_experts")
    dimensions = (night.spec.space[names[0]], night.spec.space[names[1]])
    settings, trials = tables.settings_table(night), tables.trials_table(night)
    figure = settings_figures.pair(names, dimensions, settings, trials, (0.05, None))
    worst, between, best = figure.data

    # Losses 5.0, 4.8, 5.2, 4.6, 4.7, 4.9 have ranks 5, 3, 6, 1, 2, 4 of 6: one is below a quarter, two above three.
    assert (worst.name, list(worst.x), list(worst.y)) == ("worst quarter", [0.02, 0.005], [1, 0])
    assert (best.name, list(best.x), list(best.y)) == ("best quarter", [0.05], [2])
    assert list(between.x) == [0.03, 0.04, 0.03]
    assert len({trace.marker.symbol for trace in figure.data}) == 3
    assert figure.layout.xaxis.type == "log" and list(figure.layout.yaxis.ticktext) == ["4", "8", "16"]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.05]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.003, 0.1, [0.003, 0.01, 0.03, 0.1]), (0.02, 0.05, [0.02, 0.05]), (5.0, 200.0, [10.0, 30.0, 100.0])],
)
def test_log_ticks_are_ones_and_threes(low: float, high: float, expected: list[float]) -> None:
    assert settings_figures.log_ticks(low, high) == pytest.approx(expected)


def test_importance_bars() -> None:
    figure = settings_figures.importance(pd.DataFrame({"path": ["a<b>", "c"], "importance_frac": [0.75, 0.25]}))

    assert list(figure.data[0].y) == ["a&lt;b&gt;", "c"]
    assert list(figure.data[0].text) == ["75 %", "25 %"]


def test_pruning_audit_marks_the_median(night: StudyRecord) -> None:
    figure = figures.pruning_audit(audits.pruning_audit(night))

    assert figure.layout.xaxis.title.text == "loss at 500 tokens"
    assert figure.layout.shapes[0].x0 == pytest.approx((5.35 + 5.4) / 2)


def test_speed_against_loss_draws_the_front(night: StudyRecord) -> None:
    drawn = traces(figures.speed_against_loss(tables.trials_table(night), 0))

    assert list(drawn["default"].x) == [10.0]
    assert list(drawn["best trade-offs"].x) == [20.0, 5.0] and list(drawn["best trade-offs"].y) == [4.8, 4.6]


def test_parallel_coordinates_have_a_row_per_setting(night: StudyRecord) -> None:
    table = audits.parallel_table(night, tables.trials_table(night), tables.settings_table(night))
    figure = settings_figures.parallel_coordinates(table, night.spec.space.root)

    assert len(figure.data) == 6 and all(len(trace.x) == 4 for trace in figure.data)
    assert figure.data[-1].line.width == 3, "the best trial is drawn last, on top"
    assert figure.data[-1].x[2] == 1.0
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert texts[:3] == ["0.001", "<b>optim.muon_lr</b>", "0.1"]


def test_a_choice_without_a_range_is_labelled_by_its_ends() -> None:
    table = pd.DataFrame({"number": [1], "loss": [5.0], "kind": [0.5]})
    figure = settings_figures.parallel_coordinates(table, {"kind": Dimension(choices=("a", "b", "c"))})

    assert [annotation.text for annotation in figure.layout.annotations] == ["a", "<b>kind</b>", "c"]


def test_timeline_bars_carry_colour_and_pattern(night: StudyRecord) -> None:
    drawn = traces(machine_figures.timeline(tables.timeline(night)))

    assert set(drawn) == {"finished", "pruned", "diverged", "out of memory", "crashed", "interrupted"}
    assert drawn["pruned"].marker.pattern.shape == "/" and list(drawn["pruned"].x) == [50_000.0, 50_000.0]
    assert list(drawn["finished"].y).count("finals") == 8


def test_gpu_health_draws_known_rows_and_shades_throttling(night: StudyRecord) -> None:
    gpu = tables.gpu_table(night)
    speeds = pd.DataFrame({"start": [tables.timeline(night).at[0, "start"]], "tokens_per_s": [10.0]})
    figure = machine_figures.gpu_health(gpu, speeds)

    assert [trace.name for trace in figure.data] == ["temperature (°C)", "power (W)", "clock (GHz)", "tokens per s"]
    assert figure.data[2].y[0] == pytest.approx(1.5)
    assert np.isnan(figure.data[1].y[5]), "the line breaks at the gap between two sessions"
    assert len([shape for shape in figure.layout.shapes if shape.type == "rect"]) == 1


def test_gpu_rows_that_no_card_reports_are_left_out() -> None:
    samples = tuple({"time": float(place), "power_w": 70.0} for place in range(3))
    figure = machine_figures.gpu_health(tables.gpu_table(study_builder.study(gpu=samples)), pd.DataFrame())

    assert [trace.name for trace in figure.data] == ["power (W)"]


def test_a_long_night_is_thinned_without_losing_a_throttled_moment() -> None:
    gpu = pd.DataFrame({
        "time": np.arange(7200.0), "temperature_c": 70.0, "power_w": np.arange(7200.0), "sm_clock_hz": 1e9,
        "throttled": np.arange(7200) == 4321,
    })  # fmt: skip
    thin = machine_figures.thinned(gpu)

    assert len(thin) == 600
    assert thin["throttled"].sum() == 1
    assert thin.at[0, "power_w"] == pytest.approx(np.arange(12).mean())
    assert machine_figures.throttled_spans(thin) == [(4320.0, 4332.0)]


def test_throttling_to_the_end_is_a_span() -> None:
    gpu = pd.DataFrame({"time": [0.0, 1.0, 2.0], "throttled": [False, True, True]})

    assert machine_figures.throttled_spans(gpu) == [(1.0, 2.0)]


def test_full_run_beside_its_trial() -> None:
    points = [{"tokens_seen": 1000, "val_loss": 5.0}, {"tokens_seen": 2000, "val_loss": None}]
    figure = machine_figures.full_run(points, pd.DataFrame({"tokens_seen": [250], "val_loss": [6.0]}))

    assert list(figure.data[0].x) == [1000.0] and list(figure.data[1].y) == [6.0]
