"""Studies that are renamed, copied, put back from a backup or lost in part: the folder is the study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from study_folder import StudyFolder

from autotune.core.errors import UserError
from autotune.store.study_record import read_study


def _refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_study(root)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_renamed_and_copied_study(copy: StudyFolder) -> None:
    runs = copy.root / "runs"
    (runs / "fake").rename(runs / "old")
    for arguments in (["run", "old", "--device", "cpu"], ["run", "runs/old/study.toml", "--device", "cpu"]):
        run = copy.command(*arguments)
        assert run.end() == 0 and "resuming: 8 of 8 trials are done" in run.text, run.text
    status = copy.command("status", "old")
    assert status.text.startswith("old: not running\n") and "next: autotune promote old" in status.text
    assert copy.command("stop", "old").text == "old is not running; autotune status old shows what it has done\n"

    shutil.copytree(runs / "old", runs / "copy")
    before = sorted((runs / "old").rglob("*"))
    promoted = copy.command("promote", "copy", "--tokens", "300000", "--device", "cpu", "-y")
    assert promoted.end() == 0, promoted.text
    assert sorted((runs / "old").rglob("*")) == before
    assert len(list((runs / "copy" / "full").iterdir())) == 2
    record = read_study(runs / "copy")
    assert (record.name, record.spec.name) == ("copy", "fake")
    full = record.attributes.full_run
    assert full is not None and full.folder.startswith(str(runs / "copy"))
    assert sorted(path.name for path in runs.iterdir()) == ["copy", "old"]


def test_folder_of_another_study(copy: StudyFolder) -> None:
    """A study file whose folder is another study, renamed, is not mixed with it."""
    (copy.root / "runs" / "fake").rename(copy.root / "runs" / "second")
    run = copy.run("--set", 'name="second"', "--set", "budget.tokens=90000")
    assert run.end() == 2 and "was begun with other settings" in run.text, run.text


def test_database_put_back_mixes_no_trainings(folder: StudyFolder) -> None:
    run = folder.write(budget={"trials": 2}, finals={"finalists": 0}).run()
    assert run.end() == 0, run.text
    database = folder.directory().database
    shutil.copy(database, folder.root / "kept.db")
    assert folder.run("--trials", "4").end() == 0
    for ending in ("-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)
    shutil.copy(folder.root / "kept.db", database)

    again = folder.run("--trials", "4")
    assert again.end() == 0, again.text
    assert "holds a training that the database does not know" in again.text
    for trial in folder.record().trials:
        lines = (folder.directory().trial("trials", trial.number) / "metrics.jsonl").read_text().splitlines()
        assert trial.result is not None and len(lines) == len(trial.result.points)
    kept = sorted(path.name for path in (folder.directory().root / "set_aside").iterdir())
    assert kept == ["trials-0002", "trials-0003"]
    assert folder.directory().larger_backup.exists()


def test_lost_database_is_no_new_study(copy: StudyFolder) -> None:
    directory = copy.directory()
    directory.backup.unlink()
    for path in directory.root.glob("study.db*"):
        path.unlink()
    run = copy.run()
    assert run.end() == 3 and "study.db is missing; there is no backup; move the folder away" in run.text
    assert "study.db is missing" in _refusal(directory.root)
    assert not directory.database.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "spec.json is missing"),
        ("", "spec.json is damaged (Invalid JSON"),
        ("[]", "spec.json is damaged (Input should be an object)"),
        ({"budget": "much"}, "spec.json is damaged (budget: "),
        ({"seed": 77}, "spec.json was changed since the study began:\n  seed: was 1, is 77"),
    ],
)
def test_spec_that_is_missing_damaged_or_changed(copy: StudyFolder, content: Any, words: str) -> None:
    spec = copy.directory().spec
    if content is None:
        spec.unlink()
    elif isinstance(content, dict):
        spec.write_text(json.dumps({**json.loads(spec.read_text()), **content}))
    else:
        spec.write_text(content)
    told = _refusal(spec.parent)
    assert words in told and "autotune run fake" in told


def test_what_else_lies_in_the_folder_may_be_damaged(copy: StudyFolder) -> None:
    directory = copy.directory()
    directory.hardware.write_text(json.dumps({"device": "cpu", "memory_bytes": "much"}))
    directory.events.write_text('17\n{"message": 5}\n')
    directory.holder.write_text("[]")
    record = read_study(directory.root)
    assert (record.hardware, record.events, record.run.running_pid()) == ({}, (), None)
    directory.study_file.unlink()
    run = copy.command("run", "fake", "--device", "cpu")
    assert run.end() == 2 and "runs/fake/study.toml is missing: copy the study's file there" in run.text, run.text
