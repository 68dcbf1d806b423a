"""The stored study: real SQLite, what it refuses, and what is read back."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from study_case import make_queue, make_study, result

from autotune.core.attributes import StudyAttributes, TrialAttributes
from autotune.core.errors import UserError
from autotune.core.records import TrialStatus
from autotune.store.database import open_storage
from autotune.store.run_directory import RunDirectory
from autotune.store.study_store import finals_name, open_fixed, open_study, write_result
from autotune.store.trial_records import record_of

RANDOM, NONE = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()


def test_the_same_file_opens_the_same_study(tmp_path: Path) -> None:
    first = make_queue(tmp_path, make_study(tmp_path)).optuna_study
    again = make_queue(tmp_path, make_study(tmp_path, "budget.trials=9", "budget.hours=1.0", 'title="x"')).optuna_study
    assert again.user_attrs["created_at"] == first.user_attrs["created_at"]
    assert again.user_attrs["spec"]["budget"]["trials"] == 9


def test_a_changed_study_is_refused_with_every_change(tmp_path: Path) -> None:
    make_queue(tmp_path, make_study(tmp_path)).optuna_study.ask().report(3.0, 100)
    changed = make_study(tmp_path, "budget.tokens=2000", "space.lr.high=0.2", "base.layers=3", 'pruner.name="none"')
    with pytest.raises(UserError) as caught:
        open_study(open_storage(RunDirectory(tmp_path / "runs" / "night")), changed, RANDOM, NONE)
    lines = str(caught.value).splitlines()
    assert lines[0] == "night was begun with other settings, so new trials would not be comparable with its own:"
    assert lines[1:-1] == [
        "  base.layers: was 2, is 3",
        "  budget.tokens: was 1000, is 2000",
        "  pruner.name: was 'rank', is 'none'",
        "  space.lr.high: was 0.1, is 0.2",
    ]
    assert '--set name="..."' in lines[-1]


def test_a_study_that_never_trained_may_be_mended(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    queue.optuna_study.tell(queue.optuna_study.ask(), state=TrialState.FAIL)
    open_fixed(open_storage(RunDirectory(tmp_path / "runs" / "night")), finals_name("night"))

    mended = make_queue(tmp_path, make_study(tmp_path, "base.layers=3", "space.lr.high=0.2")).optuna_study
    assert mended.user_attrs["spec"]["base"]["layers"] == 3
    assert mended.trials == []
    assert optuna.get_all_study_names(open_storage(RunDirectory(tmp_path / "runs" / "night"))) == ["night"]


def test_a_study_whose_default_was_trained_on_a_fresh_seed_is_not_begun_anew(tmp_path: Path) -> None:
    make_queue(tmp_path, make_study(tmp_path))
    open_fixed(open_storage(RunDirectory(tmp_path / "runs" / "night")), finals_name("night")).ask().report(3.0, 100)
    with pytest.raises(UserError, match="begun with other settings"):
        make_queue(tmp_path, make_study(tmp_path, "base.layers=3"))


def test_a_setting_that_the_trainer_has_been_given_since_is_no_change(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    opened = make_queue(tmp_path, study).optuna_study
    stored = opened.user_attrs["spec"]
    del stored["base"]["layers"], stored["budget"]["seeds"]
    opened.set_user_attr("spec", stored)
    make_queue(tmp_path, study)
    opened.set_user_attr("spec", stored)
    opened.ask().report(3.0, 100)
    with pytest.raises(UserError, match=r"base\.layers: was 2, is 3"):
        make_queue(tmp_path, make_study(tmp_path, "base.layers=3"))


def test_a_seed_in_the_base_that_an_earlier_version_ignored_is_no_change(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    attributes = StudyAttributes(queue.optuna_study)
    stored = dict(attributes.spec or {})
    attributes.spec = {**stored, "base": {**stored["base"], "seed": 3}}
    assert make_queue(tmp_path, queue.study).optuna_study.study_name == "night"


# --- reading ---


def test_a_result_is_stored_with_the_trial_and_beside_it(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    queue.enqueue({"lr": 0.01}, role="baseline")
    assignment = queue.take()
    assert assignment is not None
    saved = result(facts={"data_hash": "x"}, log="trials/0000/log.txt")
    TrialAttributes(assignment.trial).result = saved
    write_result(saved, assignment.folder)
    record = record_of(queue.optuna_study.trials[0], queue.study.spec.budget)
    assert record.status is TrialStatus.RUNNING
    assert record.result == saved
    queue.optuna_study.tell(0, 2.0)
    record = record_of(queue.optuna_study.trials[0], queue.study.spec.budget)
    assert (record.status, record.loss, record.role, record.params, record.seed) == (
        TrialStatus.FINISHED,
        2.0,
        "baseline",
        {"lr": 0.01},
        1,
    )
    assert (assignment.folder / "result.json").exists()
