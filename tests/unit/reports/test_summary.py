import math
from dataclasses import replace
from pathlib import Path

import pytest
import study_builder

from autotune.core.records import TrialStatus
from autotune.promotion.next_step import next_step
from autotune.store.run_directory import RunDirectory
from autotune.store.study_store import StudyRecord
from reports.page import summary_lines
from reports.sentences.before_after import before_after, compared_name, doubt
from reports.sentences.changes import change_words, changes_tried, setting_changes
from reports.sentences.cost import Cost, cost, cost_rows
from reports.sentences.how_sure import how_sure
from reports.sentences.study_row import study_row
from reports.sentences.verdict import verdict_summary


@pytest.mark.parametrize(
    ("record", "word", "icon", "part"),
    [
        (study_builder.study(), "better", "✓", "the loss fell by 7.6 %"),
        (study_builder.study(verdict=study_builder.verdict("no clear gain")), "no clear gain", "=", "about as good"),
        (study_builder.study(verdict=study_builder.verdict("inconclusive")), "inconclusive", "?", "from chance"),
        (study_builder.failed_study(), "failed", "✕", "Nothing could be compared"),
        (study_builder.running_study(), "still running", "…", "4 of up to 12 trials done."),
        (study_builder.empty_study(), "still running", "…", "0 of up to 12 trials done."),
    ],
)
def test_verdict_word_icon_and_sentence(record: StudyRecord, word: str, icon: str, part: str) -> None:
    said = verdict_summary(record)

    assert (said.word, said.icon) == (word, icon)
    assert part in said.sentence


def test_a_study_that_no_process_works_at_is_not_called_running() -> None:
    killed = replace(study_builder.running_study(), run=RunDirectory(Path("runs/night")))
    ended = tuple(trial for trial in killed.trials if trial.status is not TrialStatus.RUNNING)
    parked = replace(killed, trials=ended)

    assert verdict_summary(killed).word == "not finished"
    said = verdict_summary(parked)
    assert (said.word, said.icon) == ("parked", "…")
    assert said.sentence == "No verdict yet: 4 of up to 12 trials done. Nothing is lost."
    shared = study_builder.spec(storage="postgresql://u@h/db")
    assert verdict_summary(replace(killed, spec=shared)).word == "still running"
    assert verdict_summary(replace(parked, spec=shared)).word == "parked"


def test_a_winner_that_failed_on_a_fresh_seed_is_called_that_everywhere() -> None:
    record = study_builder.failed_winner_study()
    said, sure, step = verdict_summary(record), " ".join(how_sure(record)), next_step(record)

    assert said.sentence == "The winner failed on 1 fresh seed, so it is not called better."
    assert sure.startswith("The winner failed on 1 fresh seed: whatever it gains on others, nobody could rely on it.")
    assert "Measured gain in loss where both finished: +0.3800;" in sure
    assert "chance alone" not in sure + said.sentence and "from chance" not in said.sentence
    assert step.what.startswith("More pairs would not make these settings reliable.")
    assert "max_seeds" not in step.command
    assert doubt(record) == "where both finished"
    assert study_row(record).sure == "inconclusive: the winner failed on 1 fresh seed"


def test_an_interrupted_run_on_a_fresh_seed_is_not_called_done() -> None:
    begun = study_builder.finals_trials()[:3]
    again = replace(begun[2], status=TrialStatus.INTERRUPTED)
    record = replace(study_builder.running_study(), finals=(*begun[:2], again))

    assert "and 2 of " in verdict_summary(record).sentence
    assert dict(cost_rows(cost(record)))["Runs on fresh seeds"] == "2"


def test_the_headline_never_comes_from_the_lowest_loss(night: StudyRecord) -> None:
    """The search's minimum, 4.6, is lower than the winner's mean on fresh seeds, 4.64."""
    loss = before_after(night)[0]

    assert (loss.before, loss.after) == (5.02, 4.64)
    assert before_after(study_builder.running_study())[0].after is None


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


def test_how_sure_names_seeds_interval_and_noise(night: StudyRecord) -> None:
    text = " ".join(how_sure(night))

    assert "3 pairs of runs" in text
    assert "+0.3800; 95 % interval +0.3552 to +0.4048" in text
    assert "±0.0100; the gain is 38.0 times that" in text
    assert "lies above zero" in text


def test_how_sure_tells_what_could_be_proved_at_all(night: StudyRecord) -> None:
    noise = {"sigma": 0.01, "seeds": 4, "baseline_loss": 5.0, "pairs": 16, "provable_gain": 0.0123}
    said = "With this noise, 16 pairs of runs, the most that this study trains, can prove a gain of 0.0123 or more."

    assert said in how_sure(study_builder.with_attributes(night, noise=noise))
    assert said not in how_sure(night)
    running = study_builder.running_study()
    assert how_sure(study_builder.with_attributes(running, noise=noise))[0] == said


@pytest.mark.parametrize(
    ("low", "high", "part"), [(-0.1, 0.1, "contains zero"), (-0.3, -0.1, "lies below zero"), (None, None, "Noise")]
)
def test_how_sure_reads_the_interval(low: float | None, high: float | None, part: str) -> None:
    said = how_sure(study_builder.study(verdict=study_builder.verdict(gain_low=low, gain_high=high)))

    assert part in " ".join(said)
    assert "lies above zero" not in " ".join(said)


def test_an_unproven_minimum_comes_with_its_warning() -> None:
    said = how_sure(study_builder.running_study())

    assert "lowest of 3 finished trials is 4.8000 (trial 1)" in said[0] and "no result" in said[0]
    assert "too little" in how_sure(study_builder.empty_study())[0]


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


def test_changes_put_what_changed_first(night: StudyRecord) -> None:
    found = setting_changes(night)

    assert [(change.path, change.changed) for change in found] == [
        ("optim.muon_lr", True), ("model.dropout", True), ("model.num_experts", True),
        ("optim.grad_accum_steps", False),
    ]  # fmt: skip
    assert found[0].direction == "raised to 2.5 times" and change_words(found[0]) == "0.02 → 0.05"
    assert found[1].direction == "raised" and found[3].direction == "kept"
    assert "specialist" in found[2].explanation


def test_a_setting_of_a_foreign_trainer_has_a_generic_sentence() -> None:
    spec = study_builder.spec(base={"knob": 1.0}, space={"knob": {"low": 0.5, "high": 2.0}})
    trials = tuple(replace(trial, params={"knob": 0.5}) for trial in study_builder.search_trials())
    record = study_builder.study(spec=spec, trials=trials)
    [change] = setting_changes(record)

    assert change.explanation == "A setting of the trainer." and change.direction == "lowered to 0.5 times"


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


def test_summary_lines_for_the_console(night: StudyRecord) -> None:
    lines = summary_lines(night)

    assert lines[0].startswith("✓ better: Better settings were found")
    assert lines[1].startswith("loss 5.020 → 4.640; perplexity 151.4 → 103.5; accuracy 20.0 % → 21.5 %")
    assert "95 % interval +0.3552 to +0.4048" in lines[2]
    assert lines[-2] == "Train the full model with the settings found."
    assert lines[-1] == "next: autotune promote night (8K tokens, about 27 min, 2.0 GiB of memory)"
    assert summary_lines(study_builder.empty_study())[-1] == "next: autotune watch night"


def test_several_devices_train_more_hours_than_pass() -> None:
    names = [cost_rows(Cost(wall_s, 100.0, {}, 0, None))[1][0] for wall_s in (100.0, 50.0)]

    assert names == ["Of which training", "Training, all devices added"]
