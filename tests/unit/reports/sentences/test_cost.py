import pytest
import study_builder

from autotune.store.study_record import StudyRecord
from reports.sentences.cost import Cost, cost, cost_rows


def test_cost_counts_hours_trials_and_energy(night: StudyRecord) -> None:
    spent = cost(night)

    assert spent.counts == {
        "finished": 6, "pruned": 2, "diverged": 1, "out of memory": 1, "crashed": 1, "interrupted": 1,
    }  # fmt: skip
    assert spent.busy_s == 100 + 50 + 50 + 100 + 40 + 10 + 200 + 30 + 50 + 200 + 100 + 20 + 8 * 100
    # From the start of trial 0 to the end of the last final, which started 19 * 120 s later and took 100 s.
    assert spent.wall_s == 19 * 120 + 100
    assert dict(cost_rows(spent))["Failed"] == "3"
    assert spent.energy_text == "0.00 kWh" and spent.energy_j == 7000


@pytest.mark.parametrize("record", [study_builder.study(), study_builder.running_study()])
def test_the_kinds_of_trials_add_up(record: StudyRecord) -> None:
    rows = dict(cost_rows(cost(record)))
    kinds = ("Finished", "Stopped early (pruned)", "Failed", "Interrupted and run again", "Not ended yet")

    assert sum(int(rows.get(name, "0")) for name in kinds) == int(rows["Trials"]) == len(record.trials)


def test_cost_without_gpu_or_times() -> None:
    spent = cost(study_builder.minimal_study())

    assert spent.energy_text == "not measured"
    assert spent.wall_s == spent.busy_s


def test_several_devices_train_more_hours_than_pass() -> None:
    names = [cost_rows(Cost(wall_s, 100.0, {}, 0, None))[1][0] for wall_s in (100.0, 50.0)]

    assert names == ["Of which training", "Training, added over all devices"]
