import math

import pytest
import study_builder

from autotune.store.study_record import StudyRecord
from reports.sentences.before_after import before_after


def test_before_after_numbers(night: StudyRecord) -> None:
    rows = {row.name: row for row in before_after(night)}

    assert list(rows) == ["Loss", "Perplexity", "Accuracy", "Bits per byte"]
    assert rows["Perplexity"].before == pytest.approx(math.exp(5.02))
    assert rows["Loss"].change == "7.6 % lower" and rows["Loss"].improved is True
    assert rows["Accuracy"].change == "1.5 points higher" and rows["Accuracy"].improved is True
    assert rows["Bits per byte"].after_text == "1.160"


def test_a_worse_winner_is_called_worse() -> None:
    record = study_builder.study(verdict=study_builder.verdict(winner_loss=5.2, gain=-0.18))

    assert before_after(record)[0].improved is False


def test_unreported_metrics_are_called_so() -> None:
    rows = {row.name: row for row in before_after(study_builder.minimal_study())}

    assert rows["Loss"].after_text == "4.640"
    assert rows["Accuracy"].before_text == rows["Bits per byte"].after_text == "not reported"
    assert rows["Accuracy"].improved is None and rows["Accuracy"].change == ""


def test_a_huge_loss_has_no_perplexity() -> None:
    record = study_builder.study(verdict=study_builder.verdict(baseline_loss=1e4))

    assert before_after(record)[1].before_text == "not reported"
