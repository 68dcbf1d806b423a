"""The mirror's own process beside a study: what it says, and that no fault of the drive holds up the study."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mirror_case import MirrorCase, trials_in

from autotune.core.errors import UserError
from autotune.progress import mirroring as module
from autotune.progress.mirroring import Mirroring
from autotune.store.run_directory import RunDirectory

PATIENCE_S = 60.0


@pytest.fixture
def case(tmp_path: Path) -> MirrorCase:
    case = MirrorCase(tmp_path / "here")
    case.train()
    return case


@pytest.fixture
def keeping(case: MirrorCase) -> Iterator[Mirroring]:
    """A mirror of which a snapshot is taken every tenth of a second."""
    mirroring = Mirroring(case.drive, 0.1)
    mirroring.start(case.run)
    yield mirroring
    mirroring.finish()


def wait_for_news(mirroring: Mirroring, text: str) -> list[str]:
    """Returns all that is said until something is, that included."""
    told: list[str] = []
    end = time.monotonic() + PATIENCE_S
    while not any(text in line for line in told):
        assert time.monotonic() < end, told
        told += mirroring.news()
        time.sleep(0.02)
    return told


def pid_of(mirroring: Mirroring) -> int:
    assert mirroring._process is not None
    return mirroring._process._process.pid


def test_the_last_snapshot_has_what_came_last(case: MirrorCase, tmp_path: Path) -> None:
    mirroring = Mirroring(case.drive, 3600)
    mirroring.start(case.run)
    assert wait_for_news(mirroring, "first snapshot")
    case.train()
    assert mirroring.finish()[-1].startswith(f"mirrored to {case.mirror.root}: 2 snapshots")
    assert trials_in(case.restored(tmp_path).database) == 2
    assert mirroring.finish() == [] and mirroring.news() == []


def test_a_drive_that_goes_and_comes_is_told_twice(case: MirrorCase, keeping: Mirroring) -> None:
    wait_for_news(keeping, "first snapshot")
    away = case.drive.with_name("away")
    case.drive.rename(away)
    told = wait_for_news(keeping, "cannot be written")
    time.sleep(0.5)
    told += keeping.news()
    assert len(told) == 1 and os.strerror(errno.ENOENT) in told[0] and "the study goes on" in told[0]

    away.rename(case.drive)
    assert len(wait_for_news(keeping, "works again")) == 1
    assert keeping.finish()[-1].startswith("mirrored to")


def test_a_full_drive_is_told_and_the_last_snapshot_stays(case: MirrorCase, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("only root may mount a disk")
    try:
        mirroring = Mirroring(disk, 0.1)
        mirroring.start(case.run)
        wait_for_news(mirroring, "first snapshot")
        (case.run.root / "weights.bin").write_bytes(os.urandom(2 << 20))
        assert os.strerror(errno.ENOSPC) in wait_for_news(mirroring, "cannot be written")[-1]
        told = mirroring.finish()
        assert "the last snapshot could not be written" in told[-1]

        case.mirror = type(case.mirror)(disk / case.run.name)
        assert trials_in(case.restored(tmp_path).database) == 1
        assert not list(disk.rglob(".*.tmp"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_read_only_drive_is_told(case: MirrorCase, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a disk")
    try:
        mirroring = Mirroring(disk, 3600)
        mirroring.adopt(RunDirectory(case.run.root))
        mirroring.start(case.run)
        assert os.strerror(errno.EROFS) in wait_for_news(mirroring, "cannot be written")[-1]
        assert "there is no snapshot of this run" in mirroring.finish()[-1]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_drive_that_hangs_does_not_keep_the_run_from_ending(
    case: MirrorCase, keeping: Mirroring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process answers as little as one that hangs in the kernel."""
    wait_for_news(keeping, "first snapshot")
    monkeypatch.setattr(module, "SILENCE_S", 1.0)
    os.kill(pid_of(keeping), signal.SIGSTOP)
    began = time.monotonic()
    told = keeping.finish()
    assert time.monotonic() - began < 30
    assert "the last snapshot could not be written (it has not answered for" in told[-1]


def test_a_drive_that_hangs_is_told_while_the_study_runs(
    case: MirrorCase, keeping: Mirroring, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_news(keeping, "first snapshot")
    monkeypatch.setattr(module, "_SILENT_S", 0.5)
    process = keeping._process
    assert process is not None
    # It is stopped again and again, until that is in the midst of a snapshot.
    end = time.monotonic() + PATIENCE_S
    told: list[str] = []
    while not told:
        assert time.monotonic() < end
        os.kill(pid_of(keeping), signal.SIGSTOP)
        time.sleep(1.0)
        told = keeping.news()
        os.kill(pid_of(keeping), signal.SIGCONT)
        time.sleep(0.05)
    assert "it has not answered for" in told[0]
    wait_for_news(keeping, "works again")


def test_a_process_that_ends_is_told_once(keeping: Mirroring) -> None:
    os.kill(pid_of(keeping), signal.SIGKILL)
    assert len(wait_for_news(keeping, "no longer kept: its process has ended")) == 1
    assert keeping.news() == [] and keeping.finish() == []


def test_the_process_ends_with_the_study(case: MirrorCase, keeping: Mirroring) -> None:
    """Its input ends as that of a killed run does, without an order: no snapshot is taken after the end."""
    wait_for_news(keeping, "first snapshot")
    process = keeping._process
    assert process is not None and process._process.stdin is not None
    process._process.stdin.close()
    assert process._process.wait(PATIENCE_S) == 0
    process._process.stdin = open(os.devnull, "wb")  # noqa: SIM115 - what finish() closes


def test_another_study_in_the_mirror_is_told_and_left_alone(
    case: MirrorCase, keeping: Mirroring, tmp_path: Path
) -> None:
    wait_for_news(keeping, "first snapshot")
    stranger = MirrorCase(tmp_path / "stranger")
    from autotune.core.attributes import StudyAttributes

    StudyAttributes(stranger.queue.optuna_study).created_at = "2026-02-02T00:00:00"
    mirroring = Mirroring(case.drive, 0.1)
    mirroring.start(stranger.run)
    assert len(wait_for_news(mirroring, "another study of that name")) == 1
    assert mirroring.finish() == []


def test_adopting_says_what_it_does(case: MirrorCase, keeping: Mirroring, tmp_path: Path) -> None:
    wait_for_news(keeping, "first snapshot")
    said: list[str] = []
    run = RunDirectory(tmp_path / "there" / case.run.name)
    run.root.parent.mkdir()
    Mirroring(case.drive, 60, said.append).adopt(run)
    assert trials_in(run.database) == 1
    assert len(said) == 1 and said[0].startswith("going on from the snapshot of")


def test_where_the_mirror_cannot_be_read_nothing_begins_anew(case: MirrorCase, tmp_path: Path) -> None:
    snapshots = case.mirror.snapshots
    snapshots.parent.mkdir(parents=True)
    snapshots.write_text("a file where a folder should be")
    run = RunDirectory(tmp_path / "there" / case.run.name)
    with pytest.raises(UserError, match="nobody knows whether this study was begun before") as error:
        Mirroring(case.drive, 60).adopt(run)
    assert error.value.exit_code == 3

    said: list[str] = []
    Mirroring(case.drive, 60, said.append).adopt(case.run)
    assert len(said) == 1 and "cannot be read" in said[0] and "going on with what is in" in said[0]


def test_a_mirror_that_hangs_at_the_start_is_not_waited_for(case: MirrorCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named pipe that nobody writes takes the place of a manifest: to open it hangs."""
    case.mirror.snapshots.mkdir(parents=True)
    os.mkfifo(case.mirror.snapshots / "00000001-aa.json")
    monkeypatch.setattr(module, "SILENCE_S", 2.0)
    said: list[str] = []
    Mirroring(case.drive, 60, said.append).adopt(case.run)
    assert "it has not answered for 2 s; going on with" in said[0]
    shutil.rmtree(case.drive)


def test_an_unmounted_drive_is_refused(case: MirrorCase, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the drive mounted"):
        Mirroring(tmp_path / "content" / "drive" / "MyDrive", 60).adopt(case.run)
