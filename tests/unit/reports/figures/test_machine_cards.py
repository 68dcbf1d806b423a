"""What the cards of the machine say."""

import study_builder

from autotune.store.study_record import StudyRecord
from reports.figures import machine_cards
from reports.figures.study_tables import StudyTables


def test_the_gpus_table_has_only_what_the_card_reports() -> None:
    samples = tuple({"time": float(place), "power_w": 60.0 + 10 * place} for place in range(3))
    sentence, _, table = machine_cards.gpu(StudyTables(study_builder.study(gpu=samples)))

    assert list(table.columns) == ["of all samples", "power_w"]
    assert list(table["power_w"]) == [60.0, 70.0, 80.0]
    assert "(0.0 % of the samples)" in sentence


def test_a_card_that_reports_nothing_has_no_table() -> None:
    samples = ({"time": 0.0}, {"time": 1.0})
    _, _, table = machine_cards.gpu(StudyTables(study_builder.study(gpu=samples)))

    assert list(table.columns) == []


def test_the_full_runs_card_begins_with_its_state(night: StudyRecord) -> None:
    full = {
        "status": "finished", "tokens": 8000, "tokens_seen": 8000, "val_loss": 4.1, "seconds": 1600.0, "trial": 6,
        "points": [{"tokens_seen": 8000, "val_loss": 4.1}],
    }  # fmt: skip
    sentence, [figure], table = machine_cards.full_run(StudyTables(study_builder.with_attributes(night, full=full)))

    assert "The full run finished: 8,000 training tokens" in sentence
    assert [trace.name for trace in figure.data] == ["full run", "its trial in the search"]
    assert list(table["val_loss"]) == [4.1]
