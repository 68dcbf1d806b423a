import pytest

from autotune.search.dimension import Dimension
from autotune.store.study_record import StudyRecord
from reports.tables.ranges import edge, parallel_table, position_frac
from reports.tables.trials import settings_table, trials_table

LOG = Dimension(low=0.001, high=0.1, log=True)


@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        (LOG, 0.01, 0.5),
        (LOG, 0.2, None),
        (Dimension(low=0.0, high=0.4), 0.1, 0.25),
        (Dimension(low=3, high=3), 3, 0.5),
        (Dimension(choices=("a", "b", "c")), "c", 1.0),
        (Dimension(choices=("a", "b")), "d", None),
        (LOG, None, None),
    ],
)
def test_position_follows_the_scale_of_the_range(dimension: Dimension, value: object, expected: float | None) -> None:
    assert position_frac(dimension, value) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        (LOG, 0.0015, "low"),  # 0.088 of the range on the log scale
        (LOG, 0.0017, ""),  # 0.115
        (LOG, 0.07, "high"),
        (Dimension(low=0.0, high=0.3), 0.0, ""),  # nothing lies below 0
        (Dimension(low=0.0, high=0.3), 0.28, "high"),
        (Dimension(low=1, high=4), 1, ""),
        (Dimension(low=2, high=8), 2, "low"),
        (Dimension(choices=(4, 8, 16)), 16, ""),
        (Dimension(low=5, high=5), 5, ""),
    ],
)
def test_edge_is_within_a_tenth_of_an_end_that_can_move(dimension: Dimension, value: object, expected: str) -> None:
    assert edge(dimension, value) == expected


def test_parallel_table_is_best_first_in_shares_of_the_ranges(night: StudyRecord) -> None:
    table = parallel_table(night, trials_table(night), settings_table(night), best=2)

    assert list(table["number"]) == [6, 9]
    assert table.at[0, "model.num_experts"] == 1.0
    assert table.at[0, "model.dropout"] == pytest.approx(0.05 / 0.3)
