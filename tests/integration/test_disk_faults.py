"""A disk that is full, that may not be written, or whose folder moves: every command ends with a sentence."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from study_folder import Run, StudyFolder

from autotune.core.records import TrialStatus

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a disk in memory with some options at disk/, where this machine lets us."""
    disk = tmp_path / "disk"

    def mounted(options: str) -> Path:
        disk.mkdir()
        answer = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False
        )
        if answer.returncode:
            pytest.skip("only root may mount a disk")
        return disk

    yield mounted
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def _assert_told(run: Run, *words: str) -> None:
    assert run.end() == 3, run.text
    assert "Traceback" not in run.text, run.text
    assert all(word in run.text for word in words), run.text


def test_full_disk_in_every_command(copy: StudyFolder, mount: Mount) -> None:
    disk = mount("size=4m")
    shutil.copytree(copy.directory().root, disk / "fake")
    filler = _fill(disk)
    no_space = "no space left on the disk"
    _assert_told(copy.run("report", out="disk"), no_space, "free some space and run again")
    _assert_told(copy.command("run", "fake", "--out", "disk", "--trials", "12", "--device", "cpu"), no_space)
    _assert_told(copy.command("promote", "fake", "--out", "disk", "--tokens", "500000", "-y"), no_space)
    _assert_told(copy.command("run", "fake.toml", "--out", "disk/new", "--device", "cpu"), no_space)
    _assert_told(copy.command("compare", "disk/fake", "runs/fake", "--folder", "disk/compare"), no_space)
    # What only reads needs no space.
    status = copy.command("status", "fake", "--out", "disk")
    assert status.end() == 0 and "verdict: better" in status.text, status.text
    filler.unlink()
    again = copy.command("run", "fake", "--out", "disk", "--trials", "9", "--device", "cpu")
    assert again.end() == 0, again.text


def test_disk_without_inodes(copy: StudyFolder, mount: Mount) -> None:
    disk = mount("size=20m,nr_inodes=200")
    shutil.copytree(copy.directory().root, disk / "fake")
    with contextlib.suppress(OSError):
        for number in range(200):
            (disk / f"file-{number}").touch()
    run = copy.command("run", "fake", "--out", "disk", "--trials", "12", "--device", "cpu")
    _assert_told(run, "no space left on the disk for another file (df -i shows its inodes)")


def test_read_only_disk(copy: StudyFolder, mount: Mount) -> None:
    disk = mount("size=20m")
    shutil.copytree(copy.directory().root, disk / "fake")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    _assert_told(copy.command("run", "fake", "--out", "disk", "--device", "cpu"), "Read-only file system", "--out")
    _assert_told(copy.command("report", "fake", "--out", "disk"), "report", "Read-only file system")
    status = copy.command("status", "fake", "--out", "disk")
    assert status.end() == 0 and "verdict: better" in status.text, status.text


def test_trainer_that_meets_a_full_disk(folder: StudyFolder) -> None:
    """No setting is blamed: the study is parked, and the trial is trained again."""
    faults = {"fault": "full-disk", "fault_budget": 100_000, "strikes": 1}
    run = folder.write(budget={"trials": 3}, base=faults, pruner={"name": "none"}, finals={"finalists": 0}).run()
    _assert_told(
        run, "a training found no space left on the disk (OSError: [Errno 28]", "free some space and run again"
    )
    again = folder.run()
    assert again.end() == 0, again.text
    statuses = [trial.status for trial in folder.record().trials]
    assert statuses == [TrialStatus.INTERRUPTED] + 3 * [TrialStatus.FINISHED]


def test_probe_that_meets_a_full_disk(folder: StudyFolder) -> None:
    run = folder.write(base={"fault": "full-disk"}).run()
    _assert_told(run, "a training found no space left on the disk", "free some space and run again")
    assert "mend that in [base]" not in run.text


def test_folder_that_is_moved_while_its_study_runs(folder: StudyFolder) -> None:
    gate = {"fault": "gate", "fault_budget": 100_000}
    run = folder.write(budget={"trials": 2}, base=gate, finals={"finalists": 0}).start()
    folder.wait_at_gate()
    # A backup from the first minute on.
    assert folder.directory().backup.exists()
    folder.directory().root.rename(folder.root / "runs" / "moved")
    _assert_told(run, "runs/fake was moved, renamed or deleted while the study ran")
    folder.open_gate()
    again = folder.command("run", "moved", "--device", "cpu")
    assert again.end() == 0, again.text
