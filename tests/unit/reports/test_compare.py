from dataclasses import replace
from pathlib import Path

import pytest
import study_builder

from autotune.core.errors import UserError
from autotune.promotion.selection import best_settings
from autotune.store.study_record import StudyRecord
from reports import compare


def other(name: str = "second", **changes: object) -> StudyRecord:
    record = study_builder.study(spec=study_builder.spec(name, **changes), created_at="2026-01-07T21:00:00+00:00")
    return replace(record, verdict=study_builder.verdict("no clear gain", winner_loss=5.01, gain=0.01))


def test_rows_are_oldest_first_with_the_fresh_seed_losses(night: StudyRecord) -> None:
    second, first = compare.compare_table([other(), night])[::-1]

    assert (first.name, first.verdict, first.before, first.after) == ("night", "better", 5.02, 4.64)
    assert first.gain_frac == pytest.approx(0.38 / 5.02)
    assert first.hours == pytest.approx(1750 / 3600)
    assert first.interval == "+0.3552 to +0.4048"
    assert second.name == "second"
    assert first.sentence.startswith("loss 5.0200 → 4.6400, −7.6 %, better: optim.muon_lr 0.02 → 0.05, model.dropout")


def test_a_study_without_verdict_has_no_proven_loss(night: StudyRecord) -> None:
    running = replace(study_builder.running_study(), spec=study_builder.spec("second"), created_at="2027")
    row = compare.compare_table([night, running])[1]

    assert row.after is None and row.sentence == "still running, no proven loss"


BASE = study_builder.BASE


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (other(budget={"tokens": 2000, "trials": 12}), r"budget.tokens\) differs \(night: 1000, second: 2000\)"),
        (other(base={**BASE, "data": {**BASE["data"], "eval_tokens": 1}}), r"data.eval_tokens\) differs"),
        (other(base={**BASE, "model": {**BASE["model"], "seq_len": 128}}), r"model.seq_len\) differs"),
        (other(trainer="mine.train:train"), "the trainer differs"),
        (
            study_builder.with_attributes(other(), plan={"epochs": 6.1}),
            r"read their text differs \(night: as far as the budget goes, second: 6.1 times\)",
        ),
        (
            study_builder.with_attributes(other(), provenance={"data_hash": "zzz"}),
            r"data_hash\) differs \(night: abc123, second: zzz",
        ),
        (
            replace(study_builder.minimal_study(), run=other().run, spec=study_builder.spec("second")),
            r"data_hash\) differs \(night: abc123, second: not reported\)",
        ),
    ],
)  # fmt: skip
def test_studies_that_mean_something_else_are_refused(night: StudyRecord, second: StudyRecord, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refusal:
        compare.compare_table([night, second])
    assert refusal.value.exit_code == 2


def test_every_difference_is_named_at_once(night: StudyRecord, tmp_path: Path) -> None:
    second = other(budget={"tokens": 2000, "trials": 12}, trainer="mine.train:train")

    with pytest.raises(UserError) as refusal:
        compare.write_compare([night, second], tmp_path)
    assert "budget" in str(refusal.value) and "trainer" in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_studies_of_different_objectives_are_refused(night: StudyRecord) -> None:
    second = other(objective="loss_at_equal_seconds")

    with pytest.raises(UserError, match=r"the objective \(objective\) differs \(night: loss_at_equal_tokens, "):
        compare.compare_table([night, second])


def test_one_study_is_no_comparison(night: StudyRecord) -> None:
    with pytest.raises(UserError, match="needs two studies, and there is 1"):
        compare.compare_table([night])


def test_studies_whose_trainers_report_no_data_hash_may_be_compared_with_a_warning(tmp_path: Path) -> None:
    first = study_builder.minimal_study()
    second = replace(first, spec=first.spec.model_copy(update={"name": "second"}), created_at="2027")

    assert "could not be checked" in compare.write_compare([first, second], tmp_path).read_text(encoding="utf-8")


def test_config_differences_name_defaults_ranges_and_engine(night: StudyRecord) -> None:
    space = {**study_builder.SPACE, "model.dropout": {"low": 0.0, "high": 0.5}}
    base = {**BASE, "optim": {"muon_lr": 0.03, "grad_accum_steps": 1}}
    rows = compare._config_differences([night, other(space=space, base=base, sampler={"name": "random"})])

    assert rows == [
        ["optim.muon_lr", "0.02", "0.03"],
        ["range of model.dropout", "0.0 to 0.3", "0.0 to 0.5"],
        ["sampler", "gp", "random"],
    ]


def test_progress_counts_the_hours_of_failed_trials_too(night: StudyRecord) -> None:
    line = compare._progress_line(night)

    assert list(line["best"]) == [5.0, 4.8, 4.8, 4.6, 4.6, 4.6]
    # Trial 3 ended after trials 0 to 3: 100 + 50 + 50 + 100 s.
    assert line.at[2, "hours"] == pytest.approx(300 / 3600)


def test_the_page_is_written_with_lines_told_apart_by_dash(night: StudyRecord, tmp_path: Path) -> None:
    path = compare.write_compare([night, other()], tmp_path / "comparison")
    html = path.read_text(encoding="utf-8")
    _, [figure], table = compare._progress([night, other()])

    assert "Could not draw" not in html and html.count("* plotly.js (") == 1
    assert [trace.line.dash for trace in figure.data] == ["solid", "dash"]
    assert len(table) == 12


def test_a_comparison_of_nothing_finished_is_still_a_page(tmp_path: Path) -> None:
    first = study_builder.empty_study()
    second = replace(first, spec=study_builder.spec("second"))

    assert "Not drawn: no trial has finished" in compare.write_compare([first, second], tmp_path).read_text()


def test_settings_stand_side_by_side(night: StudyRecord) -> None:
    """What one found, what it kept, and what the other did not search."""
    narrow = other(space={"optim.muon_lr": {"low": 0.003, "high": 0.1}})
    rows = {row[0]: row[1:] for row in compare._settings_side_by_side([night, narrow])}
    best = best_settings(night)
    assert best is not None and best.trial.params["optim.muon_lr"] != 0.02
    assert rows["optim.muon_lr"][0] == f"0.02 → {best.trial.params['optim.muon_lr']:g}"
    assert rows["model.dropout"][1].endswith(", not searched")
    unfinished = study_builder.empty_study()
    assert compare._settings_side_by_side([unfinished])[0][1].endswith(", nothing found yet")


@pytest.mark.parametrize(("seconds", "unit"), [(100.0, "minutes"), (1000.0, "hours")])
def test_short_studies_are_drawn_in_minutes(night: StudyRecord, seconds: float, unit: str) -> None:
    trials = tuple(
        trial if trial.result is None else replace(trial, result=replace(trial.result, seconds=seconds))
        for trial in night.trials
    )
    _, [figure], table = compare._progress([replace(night, trials=trials), other()])

    assert figure.layout.xaxis.title.text == f"{unit} of training"
    first = table["hours"].iloc[0]
    assert figure.data[0].x[0] == pytest.approx(first * (60 if unit == "minutes" else 1))
