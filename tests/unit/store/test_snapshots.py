"""Snapshots of a real database and real files: whole ones only, what changed only, and nobody else's mirror."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mirror_case import MirrorCase, take, trials_in

from autotune.core.attributes import StudyAttributes
from autotune.store.mirror import TornError
from autotune.store.run_directory import RunDirectory
from autotune.store.snapshots import Snapshots, YieldedError


@pytest.fixture
def case(tmp_path: Path) -> MirrorCase:
    return MirrorCase(tmp_path / "here")


def test_nothing_is_taken_before_the_study_is_stored(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    run = RunDirectory(tmp_path / "runs" / "fake")
    run.root.mkdir(parents=True)
    assert Snapshots(run, tmp_path / "drive", "aa").take() is None
    assert not list((tmp_path / "drive").iterdir())


def test_a_snapshot_holds_the_database_and_the_records(case: MirrorCase, tmp_path: Path) -> None:
    case.train()
    case.write("events.jsonl", "{}\n")
    case.write(".lock", "")
    case.write("holder.json", "{}")
    case.write("set_aside/trials-0001/log.txt", "old")
    case.write("trials/0000/.config.json.tmp", "half")
    (case.run.root / "link").symlink_to("/etc/passwd")
    taken = take(case.snapshots())
    assert taken.is_new and taken.manifest.done.trials == 1
    run = case.restored(tmp_path)
    names = {path.relative_to(run.root).as_posix() for path in run.root.rglob("*") if path.is_file()}
    assert {"study.db", "spec.json", "events.jsonl", "trials/0000/result.json"} <= names
    assert not {name for name in names if "lock" in name or "holder" in name or "aside" in name or "tmp" in name}
    assert "link" not in names
    assert trials_in(run.database) == 1
    assert not list(case.run.root.glob(".mirror*"))


def test_only_the_newest_checkpoint_is_taken(case: MirrorCase, tmp_path: Path) -> None:
    for seconds in (1, 3, 2):
        path = case.write(f"full/trial-0001/checkpoints/a-{seconds}.safetensors", str(seconds))
        os.utime(path, (seconds, seconds))
    case.write("full/trial-0001/sample.txt", "text")
    take(case.snapshots())
    full = case.restored(tmp_path).full / "trial-0001"
    assert [path.name for path in (full / "checkpoints").iterdir()] == ["a-3.safetensors"]
    assert (full / "sample.txt").exists()


def test_only_what_changed_is_written(case: MirrorCase) -> None:
    case.write("big.bin", os.urandom(1_000_000).hex())
    snapshots = case.snapshots()
    first = take(snapshots)
    assert first.written_bytes > 900_000
    again = take(snapshots)
    assert not again.is_new and again.written_bytes == 0
    case.write("log.txt", "new")
    third = take(snapshots)
    assert third.is_new and third.written_bytes < 100_000
    # A second process trusts what it has read, and writes none of it again.
    other = take(case.snapshots("bb"))
    assert other.is_new and other.written_bytes < 100_000


def test_two_snapshots_are_kept_and_what_only_others_name_is_removed(case: MirrorCase, tmp_path: Path) -> None:
    snapshots = case.snapshots()
    for number in range(5):
        case.write("log.txt", f"{number}")
        take(snapshots)
    case.mirror.object("ab" * 32).parent.mkdir(exist_ok=True)
    case.mirror.object("ab" * 32).write_text("left by a process that was killed")
    case.write("log.txt", "last")
    take(snapshots)
    manifests, torn = case.mirror.manifests()
    assert [manifest.generation for manifest in manifests] == [6, 5] and not torn
    named = {sha for manifest in manifests for sha in manifest.objects}
    assert {path.name for path in (case.mirror.root / "objects").glob("*/*")} == named
    assert (case.restored(tmp_path, 1).root / "log.txt").read_text() == "4"


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-3])])
def test_what_the_drive_has_lost_is_written_again(
    case: MirrorCase, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    case.write("log.txt", "x" * 1000)
    snapshots = case.snapshots()
    content = take(snapshots).manifest.files["log.txt"]
    damage(case.mirror.object(content.sha256))
    take(snapshots)
    assert (case.restored(tmp_path).root / "log.txt").read_text() == "x" * 1000


def test_another_process_finds_what_has_rotted_at_its_size(case: MirrorCase, tmp_path: Path) -> None:
    case.write("log.txt", "x" * 1000)
    content = take(case.snapshots()).manifest.files["log.txt"]
    path = case.mirror.object(content.sha256)
    path.write_bytes(bytes(path.stat().st_size))
    take(case.snapshots("bb"))
    assert (case.restored(tmp_path).root / "log.txt").read_text() == "x" * 1000


def test_a_torn_snapshot_stays_until_two_are_whole(case: MirrorCase) -> None:
    snapshots = case.snapshots()
    take(snapshots)
    torn = case.mirror.snapshots / "00000007-cc.json"
    torn.write_text("{")
    case.write("log.txt", "1")
    assert take(snapshots).manifest.generation == 8
    assert not torn.exists() and len(case.mirror.manifests()[0]) == 2


@pytest.mark.parametrize("fails_at", range(0, 60, 3))
def test_a_write_that_fails_anywhere_leaves_the_snapshot_before(
    case: MirrorCase, tmp_path: Path, fails_at: int
) -> None:
    """The drive fails at the n-th piece of work of the second snapshot, and works again for the third."""
    case.train()
    countdown = [10**9]

    def beat() -> None:
        countdown[0] -= 1
        if countdown[0] < 0:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    snapshots = case.snapshots(beat=beat)
    take(snapshots)
    case.train()
    case.write("log.txt", "new")
    countdown[0] = fails_at
    try:
        done = take(snapshots).manifest.done.trials
    except OSError:
        done = None
    countdown[0] = 10**9
    newest = case.mirror.manifests()[0][0]
    assert newest.done.trials in (1, 2) and done in (None, newest.done.trials)
    assert trials_in(case.restored(tmp_path).database) == newest.done.trials

    assert take(snapshots).manifest.done.trials == 2
    assert not list(case.mirror.root.rglob(".*.tmp"))


def test_a_drive_that_gives_back_something_else_is_told(case: MirrorCase, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn_fsync(descriptor: int) -> None:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)

    monkeypatch.setattr(os, "fsync", torn_fsync)
    with pytest.raises(TornError, match="does not give back"):
        case.snapshots().take()
    assert case.mirror.manifests() == ([], {})


def test_a_drive_that_is_gone_is_not_made_anew(case: MirrorCase) -> None:
    snapshots = case.snapshots()
    take(snapshots)
    shutil.rmtree(case.drive)
    with pytest.raises(FileNotFoundError):
        snapshots.take()
    assert not case.drive.exists()


def test_a_file_that_is_rewritten_as_it_is_copied_stays_as_it_was(case: MirrorCase, tmp_path: Path) -> None:
    path = case.write("full/x/weights.bin", "first")
    snapshots = case.snapshots()
    take(snapshots)

    def rewrite() -> None:
        if armed:
            path.write_text(f"rewritten {len(armed)}")
            armed.append(1)

    armed: list[int] = []
    snapshots._files._beat = rewrite
    path.write_text("second")
    armed.append(1)
    take(snapshots)
    assert (case.restored(tmp_path).root / "full/x/weights.bin").read_text() == "first"


def test_a_log_that_grows_as_it_is_copied_is_taken(case: MirrorCase, tmp_path: Path) -> None:
    path = case.write("events.jsonl", "one\n")

    def grow() -> None:
        with path.open("a") as file:
            file.write("more\n")

    take(case.snapshots(beat=grow))
    text = (case.restored(tmp_path).root / "events.jsonl").read_text()
    assert text.startswith("one\n") and set(text.splitlines()) <= {"one", "more"}


def test_a_damaged_database_never_reaches_the_mirror(case: MirrorCase, tmp_path: Path) -> None:
    case.train()
    snapshots = case.snapshots()
    take(snapshots)
    connection = sqlite3.connect(case.run.database)
    with connection:
        connection.execute("DELETE FROM trial_values")
    connection.close()
    with pytest.raises(TornError, match="database is damaged"):
        snapshots.take()
    assert len(case.mirror.manifests()[0]) == 1


def test_a_run_directory_that_vanishes_ends_the_snapshot(case: MirrorCase) -> None:
    def vanish() -> None:
        case.run.spec.unlink(missing_ok=True)

    with pytest.raises(FileNotFoundError, match="is gone"):
        case.snapshots(beat=vanish).take()
    assert case.mirror.manifests() == ([], {})


def test_of_two_writers_the_later_one_goes_on(case: MirrorCase) -> None:
    first, second = case.snapshots("aa"), case.snapshots("bb")
    take(first)
    case.write("log.txt", "1")
    take(second)
    case.write("log.txt", "2")
    with pytest.raises(YieldedError, match="another run of this study"):
        first.take()
    take(second)


def test_a_mirror_of_a_later_state_is_left_alone(case: MirrorCase, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier" / case.run.name
    shutil.copytree(case.run.root, earlier)
    case.train()
    take(case.snapshots())
    late = Snapshots(RunDirectory(earlier), case.drive, "bb")
    with pytest.raises(YieldedError, match="later state"):
        late.take()

    # Of a later state that is torn nothing is left to wait for.
    sha256 = case.mirror.manifests()[0][0].files["study.db"].sha256
    case.mirror.object(sha256).write_bytes(b"torn")
    assert take(late).manifest.done.trials == 0


def test_a_mirror_of_another_study_is_left_alone(case: MirrorCase) -> None:
    take(case.snapshots())
    StudyAttributes(case.queue.optuna_study).created_at = "2026-02-02T00:00:00"
    with pytest.raises(YieldedError, match="another study of that name, which was begun 2026-01-01"):
        case.snapshots("bb").take()
