"""A study that starts from an earlier one: good settings first, and its trials teach where they are comparable."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from study_folder import COPIED_LOG, StudyFolder

from autotune.core.records import TrialStatus
from autotune.store.study_store import StudyRecord, read_study


def second(folder: StudyFolder, **changes: Any) -> StudyRecord:
    """Runs another study in the same folder that starts from the first, and reads it."""
    changes["base"] = COPIED_LOG | changes.get("base", {})
    folder.write(**{"name": "second", "warm_start": ["runs/fake"], "budget": {"trials": 4}, **changes})
    root = folder.root / "runs" / "second"
    root.mkdir(exist_ok=True)
    shutil.copy(folder.directory().hardware, root / "hardware.json")
    run = folder.run()
    assert run.end() == 0, run.text
    return read_study(root)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, Any]) -> StudyFolder:
    """A study that ran to its end; to be copied."""
    folder = StudyFolder(tmp_path_factory.mktemp("first"), hardware)
    run = folder.write(base=COPIED_LOG).run()
    assert run.end() == 0, run.text
    return folder


@pytest.fixture
def first(trained: StudyFolder, folder: StudyFolder) -> StudyRecord:
    """The study in this test's own folder."""
    return folder.copy_of(trained).record()


def priors(folder: StudyFolder) -> list[Any]:
    import optuna

    from autotune.store.database import open_storage
    from autotune.store.run_directory import RunDirectory

    storage = open_storage(RunDirectory(folder.root / "runs" / "second"), "")
    try:
        trials = optuna.load_study(study_name="second", storage=storage).trials
        return [trial for trial in trials if trial.user_attrs.get("role") == "prior"]
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_good_settings_come_first_and_finished_trials_teach(folder: StudyFolder, first: StudyRecord) -> None:
    record = second(folder)
    finished = {trial.params["lr"]: trial.loss for trial in first.trials if trial.loss is not None}
    taught = priors(folder)
    assert {trial.params["lr"]: trial.value for trial in taught} == finished
    assert all(set(trial.intermediate_values) == {20_000, 40_000, 60_000, 80_000, 100_000} for trial in taught)
    assert first.verdict is not None
    tried = [trial.params["lr"] for trial in record.trials if trial.retry_of is None]
    assert tried[0] == 0.001, "the baseline"
    assert tried[1] == first.verdict.params["lr"]
    best = [trial.params["lr"] for trial in sorted(first.trials, key=lambda trial: trial.loss or 9) if trial.loss]
    assert set(tried[1:4]) <= {first.verdict.params["lr"], *best[:3]}
    assert len(record.trials) == 4, "what was taken over is none of the study's own trials"
    assert record.trials[0].number == 0


def test_going_on_takes_nothing_over_twice(folder: StudyFolder, first: StudyRecord) -> None:
    before = second(folder)
    count = len(priors(folder))
    record = second(folder, budget={"trials": 6})
    assert len(priors(folder)) == count
    assert [trial.params for trial in record.trials[:4]] == [trial.params for trial in before.trials]
    assert sum(trial.status.teaches for trial in record.trials) == 6


def test_other_budgets_give_settings_to_try_and_teach_nothing(folder: StudyFolder, first: StudyRecord) -> None:
    record = second(folder, budget={"trials": 4, "tokens": 200_000})
    assert priors(folder) == []
    assert first.verdict is not None
    assert record.trials[1].params == first.verdict.params
    assert any("budget.tokens is 200000 here and 100000 there" in str(event["message"]) for event in record.events)


def test_other_base_values_teach_nothing_but_where_things_are_kept(folder: StudyFolder, first: StudyRecord) -> None:
    second(folder, base={"sigma": 0.02})
    assert priors(folder) == []
    shutil.rmtree(folder.root / "runs" / "second")
    second(folder, base={"output": {"dir": "elsewhere"}})
    assert priors(folder)


def test_trials_that_read_their_text_more_often_teach_nothing(folder: StudyFolder) -> None:
    """800,000 tokens of a text of 300,000 are 2.7 readings, 300,000 are one."""
    text = {"trainer": "length_fake_trainer:train"}
    assert folder.write(**text, base=COPIED_LOG).run().end() == 0
    record = second(folder, **text, promote={"tokens": 300_000})
    assert "trials read their text 1.0 times here and 2.7 times there" in str(record.events)
    assert priors(folder) == []


def test_where_seconds_count_earlier_trials_teach_nothing(folder: StudyFolder, first: StudyRecord) -> None:
    record = second(folder, objective="loss_and_seconds", pruner={"name": "none"})
    assert priors(folder) == []
    assert first.verdict is not None
    assert record.trials[1].params == first.verdict.params


def test_settings_beyond_the_range_are_left_out(folder: StudyFolder, first: StudyRecord) -> None:
    record = second(folder, space={"lr": {"low": 0.0005, "high": 0.01, "log": True}})
    assert all(0.0005 <= trial.params["lr"] <= 0.01 for trial in [*priors(folder), *record.trials])
    assert all(trial.status is not TrialStatus.CRASHED for trial in record.trials)


def test_a_setting_that_is_searched_anew_has_the_value_it_had(folder: StudyFolder, first: StudyRecord) -> None:
    space = {"lr": {"low": 0.0001, "high": 1.0, "log": True}, "layers": {"choices": [2, 4]}}
    second(folder, space=space)
    assert priors(folder) and all(trial.params["layers"] == 2 for trial in priors(folder))


def test_a_study_that_is_not_there_is_refused(folder: StudyFolder) -> None:
    run = folder.write(warm_start=["runs/nothing"]).run()
    assert run.end() == 2
    assert 'warm_start.0: there is no study at "runs/nothing"; name a folder such as runs/NAME' in run.text
    assert not folder.directory().root.joinpath("study.db").exists()
