"""The front of a study by loss and seconds, and studies whose trials have budgets of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import study_builder

from autotune.core.records import EvalPoint
from autotune.store.study_record import StudyRecord
from reports.figures import study_cards, trade_offs
from reports.figures.study_tables import StudyTables
from reports.sentences.how_sure import how_sure
from reports.sentences.pareto import front_words
from reports.sentences.verdict import verdict_summary
from reports.tables.fronts import front_table
from reports.tables.pruning import pruning_audit
from reports.tables.trials import trials_table


def judged_by(objective: str, record: StudyRecord, **changes: Any) -> StudyRecord:
    return replace(record, spec=record.spec.model_copy(update={"objective": objective}), **changes)


def test_the_front_by_hand(night: StudyRecord) -> None:
    """Losses and seconds: 5.0 in 100, 4.8 in 50, 5.2 in 100, 4.6 in 200, 4.7 in 200, 4.9 in 100."""
    both = judged_by("loss_and_seconds", night)
    table = front_table(both)
    assert table[["number", "loss", "training_s"]].to_numpy().tolist() == [[6, 4.6, 200], [1, 4.8, 50]]
    assert table.at[0, "model.num_experts"] == 16
    line = trade_offs.seconds_against_loss(trials_table(both), 0, table).data[-1]
    assert (list(line.x), list(line.y), line.name) == ([200, 50], [4.6, 4.8], "best trade-offs")


def test_the_front_says_which_is_the_fastest_of_the_good(night: StudyRecord) -> None:
    both = judged_by("loss_and_seconds", night)
    best = "The best is trial 6, loss 4.6000 in 200.0 s of training"
    assert front_words(both) == (f"{best}; no faster trial comes within 0.0251 of it (one seed each).")
    lenient = replace(both, verdict=study_builder.verdict(min_gain=0.2))
    assert front_words(lenient) == (
        f"{best}; the fastest within 0.2000 of it, the smallest gain worth "
        "having, is trial 1, loss 4.8000 in 50.0 s of training (one seed each)."
    )
    assert front_words(judged_by("loss_and_seconds", study_builder.empty_study())) == "No trial has finished."


def test_only_a_study_of_both_has_the_card(night: StudyRecord) -> None:
    drawn = {card.key: card for card in study_cards.draw_cards(judged_by("loss_and_seconds", night))}
    assert [row[0] for row in drawn["front"].rows] == ["6", "1"]
    assert front_words(night) in drawn["front"].sentence
    assert "front" not in {card.key for card in study_cards.draw_cards(night)}
    empty = judged_by("loss_and_seconds", study_builder.empty_study())
    assert {card.key: card.problem for card in study_cards.draw_cards(empty)}[
        "front"
    ] == "Not drawn: no trial has finished."


def halved(night: StudyRecord) -> StudyRecord:
    """The night at equal seconds: trial 6 read half of the tokens in the same time."""
    trials = list(night.trials)
    old = trials[6].result
    assert old is not None
    points = tuple(EvalPoint(point.tokens_seen // 2, point.val_loss, point.metrics) for point in old.points)
    trials = [replace(trial, budget_tokens=1_000) for trial in trials]
    trials[6] = replace(trials[6], budget_tokens=500, result=replace(old, points=points))
    return judged_by("loss_at_equal_seconds", night, trials=tuple(trials))


def test_curves_of_unequal_budgets_lie_over_one_another(night: StudyRecord) -> None:
    seconds = halved(night)
    assert sorted(set(StudyTables(seconds).curves["tokens_seen"])) == [250, 500, 750, 1_000]
    audit, expected = pruning_audit(seconds), pruning_audit(night)
    assert audit is not None and expected is not None
    assert audit.table.equals(expected.table) and audit.saved_s == expected.saved_s
    table = trials_table(seconds).set_index("number")
    assert (table.at[6, "budget_tokens"], table.at[6, "last_tokens"], table.at[5, "budget_tokens"]) == (500, 500, 1_000)


def test_the_verdict_names_its_terms(night: StudyRecord) -> None:
    seconds = halved(night)
    assert "below the default's at equal training seconds, measured" in verdict_summary(seconds).sentence
    assert "equal training" not in verdict_summary(night).sentence
    assert any("while the default gets through 1,000, by the measured speeds" in line for line in how_sure(seconds))
