"""What a page says of a trainer that is no language model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import study_builder

from autotune.store.study_record import StudyRecord
from reports.page import summary_lines
from reports.sentences.before_after import before_after
from reports.sentences.first_screen import first_screen
from reports.sentences.glossary import glossary
from reports.sentences.how_sure import how_sure
from reports.sentences.study_row import study_row
from reports.sentences.trial_rows import trial_rows
from reports.sentences.verdict import verdict_summary

R2 = {"name": "r2", "maximize": True, "budget_unit": "epochs", "also": {"val_accuracy": "hits"}}


def record(metric: dict[str, Any]) -> StudyRecord:
    """A study that went from 5.02 to 4.64, or from -5.02 to -4.64 of what is to be maximised."""
    return study_builder.with_attributes(study_builder.study(), metric=metric)


def test_values_have_the_trainers_name_and_sign() -> None:
    study = record(R2)
    r2, hits = before_after(study)
    assert (r2.name, r2.before_text, r2.after_text, r2.improved) == ("R2", "-5.0200", "-4.6400", True)
    assert r2.meaning == "Measured on held-out data; higher is better." and r2.change == "7.6 % higher"
    assert (hits.name, hits.improved) == ("Hits", None)
    assert verdict_summary(study).sentence == (
        "Better settings were found: r2 is 7.6 % above the default's, measured on fresh seeds."
    )
    assert first_screen(study)[0][1].startswith("the winner (trial 6): r2 -4.6400 on 3 fresh seeds; gain +0.380 (")
    assert trial_rows(study).heads[3:7] == ("r2", "last r2", "seconds", "epochs/s")
    assert trial_rows(study).rows[0].cells[3].startswith("-4.")


def test_a_gain_that_is_proved_is_never_said_to_be_nothing() -> None:
    told = study_builder.verdict(
        baseline_loss=-0.99, winner_loss=-0.9901, gain=1e-4, gain_low=0.9e-4, gain_high=1.1e-4, sigma=1e-5
    )
    study = replace(record({"name": "accuracy", "maximize": True}), verdict=told)

    assert verdict_summary(study).sentence.endswith("accuracy is 0.01 % above the default's, measured on fresh seeds.")
    assert before_after(study)[0].change == "0.01 % higher"
    row = study_row(study)
    assert (row.moved, row.sure) == ("+0.01 %", "better: gain +0.009 % to +0.01 %, 3 pairs of runs")


def test_nothing_is_said_of_language_models() -> None:
    study = record({"name": "error", "unit": "K", "budget_unit": "epochs"})
    said = " ".join([*how_sure(study), *summary_lines(study), *glossary(study.attributes.metric)])
    assert "error" in said and "gain in error" in said
    assert not any(word in said for word in ("loss", "perplexity", "tokens", "accuracy"))
