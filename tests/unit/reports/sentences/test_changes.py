from dataclasses import replace

import study_builder

from autotune.store.study_record import StudyRecord
from reports.page import summary_lines
from reports.sentences.before_after import compared_name
from reports.sentences.changes import change_words, changes_tried, setting_changes
from reports.sentences.study_row import study_row


def test_changes_put_what_changed_first(night: StudyRecord) -> None:
    found = setting_changes(night)

    assert [(change.path, change.changed) for change in found] == [
        ("optim.muon_lr", True), ("model.dropout", True), ("model.num_experts", True),
        ("optim.grad_accum_steps", False),
    ]  # fmt: skip
    assert found[0].direction == "2.5 times the default" and change_words(found[0]) == "0.02 → 0.05"
    assert found[1].direction == "raised" and found[3].direction == "kept"
    assert "specialist" in found[2].explanation


def test_a_setting_of_a_foreign_trainer_has_a_generic_sentence() -> None:
    spec = study_builder.spec(base={"knob": 1.0}, space={"knob": {"low": 0.5, "high": 2.0}})
    trials = tuple(replace(trial, params={"knob": 0.5}) for trial in study_builder.search_trials())
    record = study_builder.study(spec=spec, trials=trials)
    [change] = setting_changes(record)

    assert change.explanation == "A setting of the trainer." and change.direction == "0.5 times the default"


def test_a_small_change_is_not_told_as_none() -> None:
    spec = study_builder.spec(base={"knob": 0.99912}, space={"knob": {"low": 0.9, "high": 1.0}})
    trials = tuple(replace(trial, params={"knob": 0.99938}) for trial in study_builder.search_trials())
    [change] = setting_changes(study_builder.study(spec=spec, trials=trials))

    assert change.changed and change.direction == "raised"
    assert change_words(change) == "0.99912 → 0.99938"


def test_a_conditional_setting_that_the_winner_lacks_keeps_its_default(night: StudyRecord) -> None:
    trials = tuple(replace(trial, params={"optim.muon_lr": 0.05}) for trial in night.trials)
    record = replace(night, trials=trials)

    assert [change.path for change in setting_changes(record) if change.changed] == ["optim.muon_lr"]


def test_what_was_tried_is_not_called_changed_where_it_is_not_promoted(night: StudyRecord) -> None:
    assert changes_tried(night) == []
    unproven = replace(night, verdict=study_builder.verdict("inconclusive"))

    assert not any(change.changed for change in setting_changes(unproven))
    assert [change.path for change in changes_tried(unproven)] == [
        "optim.muon_lr", "model.dropout", "model.num_experts",
    ]  # fmt: skip
    assert compared_name(unproven) == "winner, not promoted"
    assert study_row(unproven).key_change.startswith("tried optim.muon_lr 0.02 → 0.05")
    assert summary_lines(unproven)[1].startswith("winner, not promoted: loss 5.020 → 4.640")


def test_nothing_changed_without_a_finished_trial() -> None:
    assert setting_changes(study_builder.empty_study()) == []
