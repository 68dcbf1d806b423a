import pandas as pd
import pytest
import study_builder

from autotune.search.dimension import Dimension
from autotune.store.study_record import StudyRecord
from reports.figures import settings
from reports.figures.settings import SearchedSetting
from reports.tables.ranges import parallel_table
from reports.tables.trials import settings_table, trials_table


def test_a_setting_is_drawn_on_its_own_scale_with_the_best_and_its_edge(night: StudyRecord) -> None:
    values = settings_table(night)
    searched = SearchedSetting("optim.muon_lr", night.spec.space["optim.muon_lr"], 0.09, "high")
    figure = settings.setting_against_loss(searched, values["optim.muon_lr"], trials_table(night))

    assert figure.layout.xaxis.type == "log" and figure.layout.xaxis.title.text == "optim.muon_lr (log)"
    assert list(figure.data[0].x) == [0.02, 0.03, 0.005, 0.05, 0.04, 0.03]
    assert list(figure.data[0].y) == [5.0, 4.8, 5.2, 4.6, 4.7, 4.9]
    assert figure.layout.shapes[0].x0 == 0.09
    assert "edge" in figure.layout.annotations[0].text


def test_a_setting_is_drawn_over_its_whole_range_also_where_all_trials_chose_the_same() -> None:
    trials = [study_builder.trial(number, "finished", [5.0], {"model.dropout": 0.0}) for number in range(3)]
    record = study_builder.study(trials=tuple(trials))
    dimension = record.spec.space["model.dropout"]
    values = settings_table(record)["model.dropout"]
    searched = SearchedSetting("model.dropout", dimension, 0.0, "low")
    figure = settings.setting_against_loss(searched, values, trials_table(record))

    low, high = figure.layout.xaxis.range
    assert dimension.high is not None and -0.1 * dimension.high < low < 0 and dimension.high < high
    assert figure.layout.xaxis.range[1] < 1.1 * dimension.high


def test_choices_stand_evenly_in_their_order(night: StudyRecord) -> None:
    values = settings_table(night)
    dimension = night.spec.space["model.num_experts"]
    searched = SearchedSetting("model.num_experts", dimension, 16)
    figure = settings.setting_against_loss(searched, values["model.num_experts"], trials_table(night))

    assert list(figure.layout.xaxis.ticktext) == ["4", "8", "16"]
    assert list(figure.data[0].x) == [1, 1, 0, 2, 2, 1]
    assert figure.layout.shapes[0].x0 == 2
    assert not figure.layout.annotations


def test_a_pair_tells_trials_apart_by_their_rank(night: StudyRecord) -> None:
    space = night.spec.space
    rate = SearchedSetting("optim.muon_lr", space["optim.muon_lr"], 0.05)
    experts = SearchedSetting("model.num_experts", space["model.num_experts"])
    figure = settings.pair(rate, experts, settings_table(night), trials_table(night))
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
def test_ticks_of_a_log_scale_are_ones_and_threes(
    night: StudyRecord, low: float, high: float, expected: list[float]
) -> None:
    searched = SearchedSetting("optim.muon_lr", Dimension(low=low, high=high, log=True))
    values = settings_table(night)["optim.muon_lr"]
    figure = settings.setting_against_loss(searched, values, trials_table(night))

    assert figure.layout.xaxis.tickvals == pytest.approx(expected)


def test_importance_bars() -> None:
    figure = settings.importance(pd.DataFrame({"path": ["a<b>", "c"], "importance_frac": [0.75, 0.25]}))

    assert list(figure.data[0].y) == ["a&lt;b&gt;", "c"]
    assert list(figure.data[0].text) == ["75 %", "25 %"]


def test_parallel_coordinates_have_a_row_per_setting(night: StudyRecord) -> None:
    table = parallel_table(night, trials_table(night), settings_table(night))
    figure = settings.parallel_coordinates(table, night.spec.space.root)

    assert len(figure.data) == 6 and all(len(trace.x) == 4 for trace in figure.data)
    assert figure.data[-1].line.width == 3, "the best trial is drawn last, on top"
    assert figure.data[-1].x[2] == 1.0
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert texts[:3] == ["0.001", "<b>optim.muon_lr</b>", "0.1"]


def test_a_choice_without_a_range_is_labelled_by_its_ends() -> None:
    table = pd.DataFrame({"number": [1], "loss": [5.0], "kind": [0.5]})
    figure = settings.parallel_coordinates(table, {"kind": Dimension(choices=("a", "b", "c"))})

    assert [annotation.text for annotation in figure.layout.annotations] == ["a", "<b>kind</b>", "c"]
