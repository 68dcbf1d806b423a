import pytest
import study_builder

from autotune.store.study_record import StudyRecord
from reports.tables.machine import energy_j, gpu_table, run_times


def test_energy_counts_the_counter_then_power_and_no_gap(night: StudyRecord) -> None:
    gpu = gpu_table(night)

    # 1000 J and 1500 J by the counter, (150 + 250) / 2 W * 10 s, 250 W * 10 s, and nothing for the hour between.
    assert energy_j(gpu) == pytest.approx(1000 + 1500 + 2000 + 2500)
    assert list(gpu["throttled"]) == [False, False, True, True, False, False]


def test_energy_survives_a_counter_that_starts_again() -> None:
    samples = (study_builder.gpu_sample(0, 100.0, 9000.0), study_builder.gpu_sample(10, 100.0, 5.0))

    assert energy_j(gpu_table(study_builder.study(gpu=samples))) == pytest.approx(1000.0)


def test_energy_is_unknown_without_samples() -> None:
    assert energy_j(gpu_table(study_builder.study(gpu=()))) is None


def test_torn_gpu_samples_are_left_out() -> None:
    samples = ({"power_w": 10.0}, {"time": 5.0, "throttle_reasons": None}, {"time": "x"})
    table = gpu_table(study_builder.study(gpu=samples))

    assert list(table["time"]) == [5.0]
    assert not table["throttled"].any()


def test_timeline_has_a_row_per_run_that_started(night: StudyRecord) -> None:
    rows = run_times(night)

    assert list(rows["lane"]).count("search") == 12 and list(rows["lane"]).count("finals") == 8
    gap = rows.at[1, "start"] - rows.at[0, "start"]
    assert gap.total_seconds() == 120
    assert rows.at[0, "seconds"] == 100.0
    assert len(run_times(study_builder.minimal_study())) == 0
