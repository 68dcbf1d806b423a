"""A study that starts from an earlier one: good settings first, and its trials teach where they are comparable."""

from __future__ import annotations

import json
import shutil
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from study_folder import COPIED_LOG, StudyFolder

from autotune.cli.status import summarize
from autotune.core.attributes import Snapshot, StudyAttributes
from autotune.core.records import TrialStatus
from autotune.night import warm_start
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.study_file import load
from reports.sentences.cost import cost
from reports.sentences.trial_rows import trial_rows


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


# --- clones ---


def test_a_clone_counts_the_trials_that_lie_in_its_space(folder: StudyFolder, first: StudyRecord) -> None:
    losses = {trial.params["lr"]: trial.loss for trial in first.trials if trial.retry_of is None}
    within = [lr for lr in losses if lr <= 0.01]
    assert 0 < len(within) < len(losses)

    changes = ("--set", "space.lr.high=0.01", "--set", "finals.attribute_seeds=0")
    cloned = folder.command("clone", "fake", "second", *changes, "--trials", str(len(within) + 1), "--json")
    assert cloned.end() == 0, cloned.text
    told = json.loads(cloned.text[cloned.text.index("\n{\n") :])
    assert told["taken"] == len(within) and sum(told["left"].values()) == len(first.trials) - len(within)
    assert "lr is searched in 0.0001 to 0.01 (log) here" in told["left"]
    text = (folder.root / "runs" / "second" / "study.toml").read_text()
    assert text.startswith("# A clone of fake, made on ") and tomllib.loads(text)["trials_from"] == ["runs/fake"]

    shutil.copy(folder.directory().hardware, folder.root / "runs" / "second" / "hardware.json")
    before = len(folder.started())
    run = folder.command("run", "second")
    assert run.end() == 0, run.text
    assert f"{len(within)} of {len(first.trials)} trials of fake are taken along" in run.text
    assert f"plan: up to 1 trial beside the {len(within)} taken along, of 100,000 tokens" in run.text
    record = read_study(folder.root / "runs" / "second")

    taken = [trial for trial in record.trials if trial.taken_from is not None]
    own = [trial for trial in record.trials if trial.taken_from is None]
    assert {trial.params["lr"]: trial.loss for trial in taken} == {lr: losses[lr] for lr in within}
    assert len(own) == 1 and own[0].params["lr"] not in losses, "what was tried is not tried again"
    assert record.baseline is not None and record.baseline.taken_from is not None
    assert len(folder.started()) - before == len(own) + len(record.finals)

    # Fresh seeds are fresh for both.
    assert record.finals and not {run.seed for run in record.finals} & {run.seed for run in first.finals}
    assert record.verdict is not None and set(record.verdict.seeds) <= {run.seed for run in record.finals}

    spent = cost(record)
    assert sum(spent.counts.values()) == 1
    assert spent.busy_s == pytest.approx(sum(run.result.seconds for run in (*own, *record.finals) if run.result))
    [from_first] = spent.taken
    there = sum(trial.result.seconds for trial in first.trials if trial.params["lr"] in within and trial.result)
    assert (from_first.study, from_first.taken, from_first.seconds) == ("fake", len(within), pytest.approx(there))
    assert any("fake's trial 0, taken along" in row.cells[1] for row in trial_rows(record).rows)
    assert summarize(record)["trials_taken_along"] == len(within)

    # It goes on without the first, and takes nothing along twice.
    shutil.rmtree(folder.root / "runs" / "fake")
    again = folder.command("run", "second")
    assert again.end() == 0 and "taken along" not in again.text, again.text
    assert len(read_study(folder.root / "runs" / "second").trials) == len(record.trials)


def test_a_clone_of_other_conditions_says_why_nothing_counts(folder: StudyFolder, first: StudyRecord) -> None:
    for number, (change, reason) in enumerate(
        (
            ("budget.tokens=200_000", "budget.tokens is 200000 here and 100000 there"),
            ("seed=7", "seed is 7 here and 1 there"),
            ("base.layers=3", "layers is 3 here and 2 there"),
        )
    ):
        cloned = folder.command("clone", "fake", f"clone-{number}", "--set", change)
        assert cloned.end() == 0, cloned.text
        assert f"0 of {len(first.trials)} trials of fake are taken along" in cloned.text
        assert f"{len(first.trials)} not, since {reason}" in cloned.text

    again = folder.command("clone", "fake", "clone-0")
    assert again.end() == 2 and "is there already, and is left as it is" in again.text

    # Seeds that have chosen a winner prove no other.
    path = folder.root / "runs" / "clone-1" / "study.toml"
    text = path.read_text()
    path.write_text(text.replace("seed = 7", "seed = 1").replace("skip_seeds = ", "skip_seeds = 0  # "))
    shutil.copy(folder.directory().hardware, path.parent / "hardware.json")
    refused = folder.command("run", "clone-1")
    assert refused.end() == 2 and "write finals.skip_seeds = 3" in refused.text, refused.text


def test_code_that_has_changed_makes_other_trials(folder: StudyFolder, first: StudyRecord) -> None:
    changed = dict(first.attributes.provenance, trainer_code="0123456789abcdef")
    moved = replace(
        first, attributes=StudyAttributes(Snapshot({**first.attributes.holder.user_attrs, "provenance": changed}))
    )
    for record, reason in ((first, ""), (moved, "the trainer's code has changed since")):
        assert warm_start.difference(load(folder.file), record) == reason
