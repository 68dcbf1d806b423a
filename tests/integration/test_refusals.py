"""What a run refuses to go on with, and what it takes in its stride: changed files, damaged and busy databases."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from study_folder import Run, StudyFolder, wait_for

from autotune.core.records import TrialStatus


def _assert_refused(run: Run, exit_code: int, *parts: str) -> None:
    assert run.end() == exit_code, run.text
    assert "Traceback" not in run.text
    for part in parts:
        assert part in run.text


def test_changed_study_file(copy: StudyFolder) -> None:
    before = copy.directory().spec.read_text()
    run = copy.run("--set", "budget.tokens=90000", "--set", "base.layers=4", "--set", "space.lr.high=0.5")
    _assert_refused(
        run,
        2,
        "fake was begun with other settings",
        "  base.layers: was 2, is 4\n",
        "  budget.tokens: was 100000, is 90000\n",
        "  space.lr.high: was 1.0, is 0.5\n",
        "give the study another name",
    )
    assert copy.directory().spec.read_text() == before
    assert copy.run("status").end() == 0


def test_title_and_hours_may_change(copy: StudyFolder) -> None:
    run = copy.run("--set", 'title="another"', "--hours", "5")
    assert run.end() == 0, run.text
    assert copy.record().spec.title == "another"


def _cut(database: Path) -> None:
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 2)


def _zero_the_middle(database: Path) -> None:
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(size // 3)
        file.write(bytes(size // 3))


def _overwrite_header(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(b"This is no database")


def _empty(database: Path) -> None:
    database.write_bytes(b"")


def _remove(database: Path) -> None:
    database.unlink()


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (_cut, "damaged"),
        (_zero_the_middle, "damaged"),
        (_overwrite_header, "damaged"),
        (_empty, "missing"),
        (_remove, "missing"),
    ],
)
def test_damaged_database(copy: StudyFolder, damage: Callable[[Path], None], word: str) -> None:
    """The message names the backup, and what it advises works."""
    run_directory, before = copy.directory(), copy.record()
    _remove_journal(run_directory.database)
    damage(run_directory.database)
    backup = run_directory.backup.relative_to(copy.root)
    when = time.strftime("%H:%M", time.localtime(run_directory.backup.stat().st_mtime))
    _assert_refused(copy.run(), 3, f"study.db is {word}; a backup from {when} is at {backup}: copy it to ")
    shutil.copy(run_directory.backup, run_directory.database)
    _remove_journal(run_directory.database)
    after = copy.record()
    assert (after.trials, after.finals, after.verdict) == (before.trials, before.finals, before.verdict)
    again = copy.run()
    assert again.end() == 0, again.text


def _remove_journal(database: Path) -> None:
    for ending in ("-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)


def test_damaged_database_without_a_backup(copy: StudyFolder) -> None:
    copy.directory().backup.unlink()
    _overwrite_header(copy.directory().database)
    _assert_refused(copy.run(), 3, "study.db is damaged; there is no backup; move the folder away")


def test_database_damaged_in_a_run_does_not_reach_the_backup(folder: StudyFolder) -> None:
    run = folder.write(budget={"trials": 3}, base={"fault": "gate", "fault_budget": 100_000}).start()
    folder.wait_at_gate()
    database, backup = folder.directory().database, folder.directory().backup
    shutil.copy(database, backup)
    good = backup.read_bytes()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    _zero_the_middle(database)
    folder.open_gate()
    assert run.end() in (1, 3), run.text
    assert backup.read_bytes() == good


def test_database_held_by_another_program(folder: StudyFolder) -> None:
    """For longer than SQLite's usual five seconds."""
    run = folder.write(budget={"trials": 1}, base={"fault": "gate", "fault_budget": 100_000}).start()
    folder.wait_at_gate()
    database = folder.directory().database
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        folder.open_gate()
        time.sleep(8)
        connection.execute("ROLLBACK")
    assert run.end() == 0, run.text
    assert [trial.status for trial in folder.record().trials] == [TrialStatus.FINISHED]


def test_nearly_full_disk(folder: StudyFolder) -> None:
    run = folder.write(limits={"min_free_bytes": 10**18}).run()
    _assert_refused(run, 3, "GB are left on the disk of ", "parked and nothing is lost: free some space and run again")
    assert [trial.status for trial in folder.record().trials] == [TrialStatus.WAITING]
    again = folder.write(limits={"min_free_bytes": 0}).run()
    assert again.end() == 0, again.text


@pytest.fixture
def small_disk(folder: StudyFolder) -> Iterator[Path]:
    """A disk of 2 MB at the folder of run directories, where this machine lets us mount one."""
    disk = folder.root / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    folder.wait_until_empty()
    subprocess.run(["umount", disk], check=True)


def test_disk_that_fills_up_in_a_trial(folder: StudyFolder, small_disk: Path) -> None:
    folder.write(budget={"trials": 3}, base={"fault": "gate", "fault_budget": 100_000})
    run = folder.start(out="small")
    folder.wait_at_gate()
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    folder.open_gate()
    _assert_refused(run, 3, "run again")
    filler.unlink()
    again = folder.run(out="small")
    assert again.end() == 0, again.text
    trials = folder.record("small").trials
    assert sum(trial.status.teaches for trial in trials) == 3


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", 'storage = "postgresql://...": cannot connect: '),
        ("postgresql://127.0.0.1:port/none", 'storage = "postgresql://...": not a database URL: '),
    ],
)
def test_storage_that_cannot_be_opened(folder: StudyFolder, storage: str, message: str) -> None:
    run = folder.write(storage=storage).run()
    _assert_refused(run, 3, message)


@pytest.mark.parametrize("storage", ["sqlite:///shared.db", "mysql://localhost/none", "somewhere"])
def test_storage_of_another_kind_is_a_fault_of_the_study_file(folder: StudyFolder, storage: str) -> None:
    run = folder.write(storage=storage).run()
    _assert_refused(run, 2, 'storage: must be a URL such as "postgresql://user@host/database"')


def test_stray_files_of_a_killed_writer_are_swept(copy: StudyFolder) -> None:
    strays = [copy.directory().root / ".spec.json.abc.tmp", copy.directory().trial("trials", 1) / ".config.json.x.tmp"]
    for stray in strays:
        stray.write_text("half of")
    run = copy.run()
    assert run.end() == 0, run.text
    assert not any(stray.exists() for stray in strays)


def test_device_of_another_kind(copy: StudyFolder) -> None:
    hardware = copy.directory().hardware
    hardware.write_text(hardware.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    _assert_refused(copy.run("--device", "cpu"), 2, "fake was begun on cuda and this is cpu")


def test_status_while_it_runs(folder: StudyFolder) -> None:
    run = folder.write(budget={"trials": 1}, base={"fault": "gate", "fault_budget": 100_000}).start()
    folder.wait_at_gate()
    status = folder.run("status")
    assert status.end() == 0 and f"running as PID {run.process.pid}" in status.text, status.text
    folder.open_gate()
    assert run.end() == 0
    wait_for(lambda: "not running" in folder.run("status").text)
