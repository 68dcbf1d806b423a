"""Trials of an earlier study that count as a study's own, and those that do not, with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from study_case import make_queue, make_study, result

from autotune.core.attributes import StudyAttributes
from autotune.core.errors import UserError
from autotune.core.records import TrialResult, TrialStatus
from autotune.core.study_results import TakenAlong, TakenFrom
from autotune.finals.verdict import fresh_seeds
from autotune.night import taking_along
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.study_file import Study

ENDS = {
    0.001: result(loss=3.0),
    0.01: result(loss=2.5),
    0.05: replace(result(TrialStatus.PRUNED, loss=4.0), cause="behind the others"),
    0.09: TrialResult(TrialStatus.DIVERGED, "diverged"),
    0.02: TrialResult(TrialStatus.CRASHED, "it crashed"),
    0.03: TrialResult(TrialStatus.OUT_OF_MEMORY, "out of memory"),
}


@pytest.fixture
def earlier(tmp_path: Path) -> StudyRecord:
    """A study with a trial for each end, and one that waits."""
    queue = make_queue(tmp_path / "earlier", made(tmp_path / "earlier", "budget.trials=20"))
    for lr, outcome in ENDS.items():
        queue.enqueue({"lr": lr}, role="baseline" if lr == 0.001 else "search")
        assignment = queue.take()
        assert assignment is not None
        for point in outcome.points:
            queue.report(assignment, point)
        queue.tell(assignment.trial, replace(outcome, seconds=10.0), assignment.folder)
    queue.enqueue({"lr": 0.04}, role="search")
    return read_study(queue.run.root)


def made(folder: Path, *changes: str) -> Study:
    folder.mkdir()
    return make_study(folder, "base.lr=0.001", *changes)


def test_what_says_something_of_its_settings_counts(tmp_path: Path, earlier: StudyRecord) -> None:
    found = taking_along.account(made(tmp_path / "later"), earlier)
    assert [each.settings["lr"] for each in found.taken] == [0.001, 0.01, 0.05, 0.09]
    assert found.left == {
        "it crashed": 1,
        "it did not fit into the memory there": 1,
        "it was not trained": 1,
    }
    assert found.lines()[0] == "4 of 7 trials of night are taken along; they took 40 s there, and nothing here"


def test_trials_outside_of_the_space_are_left_with_the_reason(tmp_path: Path, earlier: StudyRecord) -> None:
    narrow = made(tmp_path / "narrow", "space.lr.high=0.03")
    found = taking_along.account(narrow, earlier)
    assert [each.settings["lr"] for each in found.taken] == [0.001, 0.01]
    [reason] = [reason for reason in found.left if reason.startswith("lr is searched in ")]
    assert found.left[reason] == 2 and reason.endswith(" here")


def test_they_are_stored_once_like_the_studys_own_and_took_no_time_of_it(tmp_path: Path, earlier: StudyRecord) -> None:
    study = made(tmp_path / "later", f'trials_from=["{earlier.run.root}"]', "finals.skip_seeds=100")
    queue = make_queue(tmp_path / "later", study)
    for _ in range(2):
        taking_along.take(study, queue.optuna_study, {}, None)

    record = read_study(queue.run.root)
    assert [trial.taken_from for trial in record.trials] == [TakenFrom("night", number, 10.0) for number in range(4)]
    assert [trial.status for trial in record.trials] == [outcome.status for outcome in list(ENDS.values())[:4]]
    assert all(trial.result is not None and trial.result.seconds == 0 for trial in record.trials)
    assert record.baseline is not None and record.baseline.loss == 3.0
    assert record.trials[1].values == earlier.trials[1].values
    [kept] = record.attributes.taken_along.values()
    assert (kept, kept.left["it crashed"]) == (TakenAlong("night", 4, 40.0, kept.left), 1)

    # The default settings are there: they are not queued again.
    queue.enqueue({"lr": 0.001}, role="baseline")
    assert len(read_study(queue.run.root).trials) == 4

    # Of what a study has taken along, the next one names the first.
    third = made(tmp_path / "third", f'trials_from=["{queue.run.root}"]', "finals.skip_seeds=200")
    last = make_queue(tmp_path / "third", third)
    taking_along.take(third, last.optuna_study, {}, None)
    assert read_study(last.run.root).trials[1].taken_from == TakenFrom("night", 1, 10.0)


def test_trials_of_another_kind_of_device_do_not_count(tmp_path: Path, earlier: StudyRecord) -> None:
    on_cuda = replace(earlier, hardware={"device": "cuda", "emulate": ""})
    found = taking_along.account(made(tmp_path / "later"), on_cuda)
    here = taking_along._on_the_same_device(found, on_cuda, {"device": "cpu", "emulate": ""})
    assert here.taken == () and here.left["they were trained on cuda, and this is cpu"] == 4
    assert taking_along._on_the_same_device(found, on_cuda, {"device": "cuda", "emulate": ""}) == found


def test_a_winner_is_never_proved_on_seeds_that_another_was_chosen_on(tmp_path: Path, earlier: StudyRecord) -> None:
    attributes = StudyAttributes(optuna.create_study())
    study = made(tmp_path / "later", f'trials_from=["{earlier.run.root}"]')
    with pytest.raises(UserError, match=r"write finals\.skip_seeds = "):
        taking_along.require_there(study.spec, attributes)

    for number, seed in enumerate((1, 3, 0)):
        skipped = taking_along.seeds_to_skip(seed, earlier)
        enough = made(
            tmp_path / f"enough-{number}",
            f'trials_from=["{earlier.run.root}"]',
            f"seed={seed}",
            f"finals.skip_seeds={skipped}",
        )
        taking_along.require_there(enough.spec, attributes)
        ours = fresh_seeds(enough.spec.finals, seed)
        assert not set(ours) & set(fresh_seeds(earlier.spec.finals, earlier.spec.seed))
