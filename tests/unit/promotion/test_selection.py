"""Which trial and which settings are the best: promoted, reported and taken over are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import study_builder
from study_case import make_study, result

from autotune.core.errors import UserError
from autotune.core.records import TrialRecord, TrialStatus, Verdict, VerdictWord
from autotune.promotion.selection import best_settings, contender, measured_gain, select_trial_to_promote
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord

BASELINE = TrialRecord(0, {"lr": 0.001}, TrialStatus.FINISHED, result(loss=3.0), role="baseline")
WINNER = TrialRecord(4, {"lr": 0.01}, TrialStatus.FINISHED, result(loss=2.9))
BETTER = Verdict(
    VerdictWord.BETTER, "better on fresh seeds", 4, {"lr": 0.01}, (1002, 1003), 3.0, 2.9, 0.1, 0.05, 0.15, None, 0.01
)


@pytest.fixture
def record(tmp_path: Path) -> StudyRecord:
    run = RunDirectory(tmp_path / "runs" / "night")
    return StudyRecord(run, make_study(tmp_path).spec, (BASELINE, WINNER), verdict=BETTER)


# --- which trial ---


def test_a_proven_winner_is_chosen(record: StudyRecord) -> None:
    assert select_trial_to_promote(record) == (WINNER, BETTER.reason)


@pytest.mark.parametrize("word", [VerdictWord.NO_CLEAR_GAIN, VerdictWord.INCONCLUSIVE])
def test_what_is_not_proven_stays_at_its_default(record: StudyRecord, word: VerdictWord) -> None:
    unproven = replace(record, verdict=replace(BETTER, word=word, reason="too few"))
    assert select_trial_to_promote(unproven) == (BASELINE, "the default settings: too few")


def test_without_a_finished_baseline_nothing_is_promoted_that_was_not_proved(record: StudyRecord) -> None:
    failed = replace(BASELINE, status=TrialStatus.CRASHED, result=result(TrialStatus.CRASHED))
    verdict = replace(BETTER, word=VerdictWord.INCONCLUSIVE, reason="no baseline")
    unproved = replace(record, trials=(failed, WINNER), verdict=verdict)
    with pytest.raises(UserError, match=r"default settings of night did not train, .* `autotune run night` tries them"):
        select_trial_to_promote(unproved)

    shown = best_settings(unproved)
    assert shown is not None and (shown.trial, shown.is_decided) == (WINNER, False)


def test_a_trial_may_be_chosen_by_hand(record: StudyRecord) -> None:
    assert select_trial_to_promote(record, 0) == (BASELINE, "chosen by hand")
    assert select_trial_to_promote(replace(record, verdict=None), 4) == (WINNER, "chosen by hand")


@pytest.mark.parametrize("status", [TrialStatus.DIVERGED, TrialStatus.OUT_OF_MEMORY, TrialStatus.WAITING])
def test_a_trial_that_did_not_train_soundly_is_not_promoted(record: StudyRecord, status: TrialStatus) -> None:
    trials = (BASELINE, replace(WINNER, status=status))
    with pytest.raises(UserError, match=f"trial 4 of night is {status}; choose one that finished or was pruned"):
        select_trial_to_promote(replace(record, trials=trials), 4)


@pytest.mark.parametrize(
    ("changes", "number", "message", "exit_code"),
    [
        ({}, 9, "night has no trial 9; it has 0, 4", 2),
        ({"trials": ()}, 0, "night has no trial 0; none has begun yet", 2),
        (
            {"verdict": None},
            None,
            "night has no verdict yet; finish it with `autotune run night`, or name a --trial",
            4,
        ),
        (
            {"trials": (), "verdict": Verdict(VerdictWord.FAILED, "none of 0")},
            None,
            "no trial of night finished; its report says why: {report}",
            4,
        ),
    ],
)
def test_what_cannot_be_chosen(
    record: StudyRecord, changes: dict[str, Any], number: int | None, message: str, exit_code: int
) -> None:
    with pytest.raises(UserError) as caught:
        select_trial_to_promote(replace(record, **changes), number)
    assert (str(caught.value), caught.value.exit_code) == (message.format(report=record.run.report), exit_code)


def test_the_verdict_is_about_the_winner_of_the_finals_not_the_lowest_loss() -> None:
    named = contender(study_builder.study(verdict=study_builder.verdict(winner=9)))
    lowest = contender(study_builder.study(verdict=None))
    assert named is not None and named.number == 9
    assert lowest is not None and lowest.number == 6
    assert contender(study_builder.failed_study()) is None


# --- the settings, ties at their default ---


def test_the_best_settings_are_those_that_are_promoted(record: StudyRecord) -> None:
    best = best_settings(record)
    assert best is not None and best.is_decided
    assert (best.trial, best.left_at_default) == (WINNER, {})


def test_before_the_verdict_they_are_the_lowest_loss_so_far(record: StudyRecord) -> None:
    best = best_settings(replace(record, verdict=None))
    assert best is not None and (best.trial, best.is_decided) == (WINNER, False)
    assert best_settings(replace(record, trials=(), verdict=None)) is None


def test_a_winner_that_is_not_promoted_is_no_best_but_still_what_the_verdict_is_about(record: StudyRecord) -> None:
    unproven = replace(record, verdict=replace(BETTER, word=VerdictWord.INCONCLUSIVE))
    best = best_settings(unproven)
    assert best is not None and best.trial == BASELINE
    assert contender(unproven) == WINNER
    assert measured_gain(unproven) is None


def test_changes_without_a_gain_are_left_out_of_the_settings_and_of_what_they_gained() -> None:
    record = study_builder.attributed_study()
    best, measured = best_settings(record), measured_gain(record)
    assert best is not None and measured is not None
    assert set(best.left_at_default) == {"model.dropout", "optim.adamw_lr", "optim.decay_frac"}
    assert best.trial.params["model.dropout"] == 0.0
    # Not the 4.64 that the verdict has of the winner with all its changes.
    assert (measured.seeds, measured.baseline_loss, measured.loss) == ((1002, 1003), 5.02, 4.645)
    assert measured.gain == pytest.approx(0.375)


def test_what_the_promoted_settings_reached_besides_the_loss_comes_from_their_own_runs() -> None:
    record = study_builder.attributed_study()
    best, measured = best_settings(record), measured_gain(record)
    assert best is not None and measured is not None
    own = [replace(run, params=best.trial.params, stage="attribute") for run in record.finals[3:5]]
    own = [replace(run, seed=seed, arm=6) for run, seed in zip(own, (1002, 1003), strict=True)]
    others = tuple(run for run in record.finals if run.stage != "attribute")
    measured = measured_gain(replace(record, finals=(*others, *own)))
    assert measured is not None
    expected = (1 / 4.62 + 1 / 5.03) / 2
    assert measured.metrics["val_accuracy"] == pytest.approx(expected)
    assert measured.baseline_metrics["val_accuracy"] == pytest.approx((1 / 5.01 + 1 / 5.03) / 2)


def test_where_every_change_counts_the_gain_is_the_verdicts() -> None:
    measured = measured_gain(study_builder.study())
    assert measured is not None
    assert (measured.seeds, measured.baseline_loss, measured.loss) == ((1002, 1003, 1004), 5.02, 4.64)
