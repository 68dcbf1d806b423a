from autotune.store.study_record import StudyRecord
from reports.figures import trade_offs
from reports.tables.trials import trials_table


def test_speed_against_loss_draws_the_front(night: StudyRecord) -> None:
    figure = trade_offs.speed_against_loss(trials_table(night), 0)
    drawn = {trace.name: trace for trace in figure.data}

    assert list(drawn["default"].x) == [10.0]
    assert list(drawn["best trade-offs"].x) == [20.0, 5.0]
    assert list(drawn["best trade-offs"].y) == [4.8, 4.6]
