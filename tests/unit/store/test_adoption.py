"""Which of a run directory and its mirror a study goes on from, and that nothing of the other is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from mirror_case import MirrorCase, take, trials_in

from autotune.core.attributes import StudyAttributes
from autotune.core.errors import UserError
from autotune.core.files import read_lines
from autotune.store import adoption
from autotune.store.adoption import adopt
from autotune.store.run_directory import RunDirectory


@pytest.fixture
def case(tmp_path: Path) -> MirrorCase:
    """A study of two trials, of which a snapshot was taken after each."""
    case = MirrorCase(tmp_path / "here")
    snapshots = case.snapshots()
    for _ in range(2):
        case.train()
        take(snapshots)
    return case


@pytest.fixture
def other(tmp_path: Path, case: MirrorCase) -> RunDirectory:
    """The run directory of another machine, where nothing is."""
    return RunDirectory(tmp_path / "there" / "runs" / case.run.name)


def adopted(run: RunDirectory, case: MirrorCase) -> tuple[bool, list[str]]:
    said: list[str] = []
    run.root.parent.mkdir(parents=True, exist_ok=True)
    is_adopted = adopt(run, case.drive, said.append)
    assert not list(run.root.parent.glob(".*"))
    return is_adopted, said


def test_a_fresh_machine_goes_on_from_the_newest(case: MirrorCase, other: RunDirectory) -> None:
    is_adopted, said = adopted(other, case)
    assert is_adopted and trials_in(other.database) == 2
    assert len(said) == 1 and "2 trainings had ended" in said[0]
    assert [line["message"] for line in read_lines(other.events)][-1:] == said


def test_an_empty_mirror_is_a_study_that_begins(tmp_path: Path, other: RunDirectory) -> None:
    assert not adopt(other, tmp_path / "drive", print)
    assert (tmp_path / "drive").is_dir() and not other.root.exists()


def test_a_torn_snapshot_is_passed_over(case: MirrorCase, other: RunDirectory) -> None:
    newest = case.mirror.manifests()[0][0]
    case.mirror.object(newest.files["study.db"].sha256).write_bytes(b"torn")
    is_adopted, said = adopted(other, case)
    assert is_adopted and trials_in(other.database) == 1
    assert f"snapshot {newest.name}" in said[0] and "passed over: a content is damaged (study.db)" in said[0]


def test_a_torn_manifest_is_passed_over(case: MirrorCase, other: RunDirectory) -> None:
    path = case.mirror.snapshots / case.mirror.manifests()[0][0].name
    path.write_text(path.read_text()[:-100])
    is_adopted, said = adopted(other, case)
    assert is_adopted and trials_in(other.database) == 1
    assert said[0].endswith("passed over: its manifest is torn")


def test_nothing_begins_anew_where_all_is_torn(case: MirrorCase, other: RunDirectory) -> None:
    shutil.rmtree(case.mirror.root / "objects")
    with pytest.raises(UserError, match=r"no snapshot in .* is whole") as error:
        adopt(other, case.drive, print)
    assert error.value.exit_code == 3 and not other.root.exists()


def test_the_run_directory_wins_where_it_has_gone_on(case: MirrorCase) -> None:
    case.train()
    assert adopted(case.run, case) == (False, [])
    assert trials_in(case.run.database) == 3


def test_the_run_directory_wins_where_both_are_alike(case: MirrorCase) -> None:
    assert adopted(case.run, case) == (False, [])


def test_a_later_snapshot_wins_and_the_earlier_files_are_set_aside(case: MirrorCase, other: RunDirectory) -> None:
    assert adopted(other, case)[0]
    (other.root / "notes.txt").write_text("mine")
    case.train()
    take(case.snapshots("bb"))
    is_adopted, said = adopted(other, case)
    assert is_adopted and "3 trainings had ended" in said[0]
    assert trials_in(other.database) == 3 and not (other.root / "notes.txt").exists()
    (before,) = (other.root / "set_aside").iterdir()
    assert (before / "notes.txt").read_text() == "mine" and trials_in(before / "study.db") == 2


def test_files_without_a_study_do_not_hinder_it(case: MirrorCase, other: RunDirectory) -> None:
    other.root.mkdir(parents=True)
    other.hardware.write_text("{}")
    assert adopted(other, case)[0]
    assert trials_in(other.database) == 2


def test_another_study_of_the_name_is_refused(case: MirrorCase, tmp_path: Path) -> None:
    stranger = MirrorCase(tmp_path / "stranger")
    StudyAttributes(stranger.queue.optuna_study).created_at = "2026-02-02T00:00:00"
    with pytest.raises(UserError, match="another study of that name"):
        adopt(stranger.run, case.drive, print)


def test_a_study_that_runs_is_left_alone(case: MirrorCase, other: RunDirectory) -> None:
    assert adopted(other, case)[0]
    case.train()
    take(case.snapshots("bb"))
    with other.held(), pytest.raises(UserError, match="has been running since") as error:
        adopt(other, case.drive, print)
    assert error.value.exit_code == 5 and trials_in(other.database) == 2


@pytest.mark.parametrize("kill_at", [0, 1, 2])
def test_a_kill_while_it_is_replaced_loses_nothing(
    case: MirrorCase, other: RunDirectory, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    assert adopted(other, case)[0]
    (other.root / "notes.txt").write_text("mine")
    case.train()
    take(case.snapshots("bb"))

    rename, count = os.rename, [0]

    def killed(before: Path, after: Path) -> None:
        count[0] += 1
        if count[0] > kill_at:
            raise KeyboardInterrupt
        rename(before, after)

    monkeypatch.setattr(adoption.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        adopt(other, case.drive, print)
    monkeypatch.undo()

    adopted(other, case)
    assert trials_in(other.database) == 3
    assert [path.read_text() for path in other.root.rglob("notes.txt")] == ["mine"]


def test_a_drive_that_is_not_mounted_is_told(tmp_path: Path, other: RunDirectory) -> None:
    with pytest.raises(UserError, match="is the drive mounted"):
        adopt(other, tmp_path / "drive" / "MyDrive", print)
    assert not (tmp_path / "drive").exists()


def test_the_folder_of_the_runs_is_no_mirror(case: MirrorCase) -> None:
    with pytest.raises(UserError, match="where the study itself is kept"):
        adopt(case.run, case.run.root.parent, print)


def test_a_file_is_no_mirror(tmp_path: Path, other: RunDirectory) -> None:
    (tmp_path / "drive").touch()
    with pytest.raises(UserError, match="is a file"):
        adopt(other, tmp_path / "drive", print)
