"""A study's files in a place that its machines share: what is put there, and what another machine fetches of it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from autotune.core.errors import UserError
from autotune.store.mirror import LeftError
from autotune.store.run_directory import RunDirectory
from autotune.store.shared_files import SharedFiles, require_reachable
from autotune.store.study_record import read_events

FULL = "full/trial-0001-200-tokens"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


def machine(tmp_path: Path, name: str) -> RunDirectory:
    """Returns the run directory of a machine, which has trained a trial."""
    run = RunDirectory(tmp_path / name / "fleet")
    number = 7 if name == "a" else 8
    write(run, f"trials/{number:04d}/log.txt", f"on {name}\n")
    write(run, "events.jsonl", json.dumps({"time": number, "kind": "note", "message": name}) + "\n")
    for left in ("study.toml", "spec.json", "holder.json", "report/index.html", ".hidden"):
        write(run, left, "not for others")
    return run


def write(run: RunDirectory, name: str, text: str) -> Path:
    path = run.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def there(place: Path) -> set[str]:
    return {path.relative_to(place / "fleet").as_posix() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_each_machine_gets_the_logs_and_events_of_all(tmp_path: Path, place: Path, scheme: str) -> None:
    a, b = machine(tmp_path, "a"), machine(tmp_path, "b")
    files = [SharedFiles(run, f"{scheme}{place}", "fleet") for run in (a, b)]
    written = [each.take() for each in files]
    assert min(written) > 0 and [each.take() for each in files] == [0, 0]
    names = there(place)
    assert {"trials/0007/log.txt", "trials/0008/log.txt"} < names
    assert sum(name.startswith("machines/") for name in names) == 2 and len(names) == 4

    write(a, "trials/0007/log.txt", "on a\nand on\n")
    assert files[0].take() == len("on a\nand on\n")
    assert files[1].fetch_records() > 0
    assert (b.root / "trials/0007/log.txt").read_text() == "on a\nand on\n"
    assert (b.root / "trials/0008/log.txt").read_text() == "on b\n"
    assert [event["message"] for event in read_events(b)] == ["a", "b"]
    files[1].take()
    assert there(place) == names


def test_a_full_run_goes_on_from_whoever_trained_it_last(tmp_path: Path, place: Path) -> None:
    a, b = machine(tmp_path, "a"), machine(tmp_path, "b")
    on_a, on_b = (SharedFiles(run, str(place), "fleet") for run in (a, b))
    assert on_b.fetch_run(FULL) == 0, "nobody has trained it"
    first = write(a, f"{FULL}/checkpoints/run-1.safetensors", "one")
    on_a.take()
    write(a, f"{FULL}/checkpoints/run-2.safetensors", "two")
    os.utime(first, (1, 1))
    on_a.take()
    assert {name for name in there(place) if "run-" in name} == {f"{FULL}/checkpoints/run-2.safetensors"}
    assert on_a.fetch_run(FULL) == 0, "its own files are the latest"

    assert on_b.fetch_run(FULL) == len("two")
    assert (b.root / FULL / "checkpoints/run-2.safetensors").read_text() == "two"
    write(b, f"{FULL}/checkpoints/run-2.safetensors", "TWO, and further")
    on_b.take()
    again = SharedFiles(a, str(place), "fleet")
    again.take()
    assert again.fetch_run(FULL) == len("TWO, and further"), "an earlier machine's older files do not replace it"
    assert not (b.root / FULL / ".writer").exists()

    assert on_b.fetch_records() > 0
    assert not list((tmp_path / "b").rglob("*.tmp")) and not list(place.rglob("*.tmp"))


def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the drive mounted"):
        require_reachable(str(tmp_path / "absent/place"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; name a folder"):
        require_reachable(str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"artifacts odd://x cannot be reached: .*odd") as refusal:
        require_reachable("odd://x")
    assert refusal.value.exit_code == 3
    require_reachable(str(tmp_path / "new"))


def test_a_place_that_is_no_folder_is_reached_as_its_package_does(tmp_path: Path) -> None:
    """In the memory of this process; an object store is reached by the same calls."""
    url = "memory://shared-files"
    a, b = machine(tmp_path, "a"), machine(tmp_path, "b")
    on_a, on_b = (SharedFiles(run, url, "fleet") for run in (a, b))
    checkpoint = write(a, f"{FULL}/checkpoints/run-1.safetensors", "one")
    assert on_a.take() > 0 and on_a.take() == 0
    assert on_b.fetch_run(FULL) == len("one") and on_b.fetch_records() > 0
    assert (b.root / FULL / "checkpoints/run-1.safetensors").read_text() == "one"
    assert (b.root / "trials/0007/log.txt").read_text() == "on a\n"

    checkpoint.unlink()
    on_a.take()
    assert SharedFiles(machine(tmp_path, "c"), url, "fleet").fetch_run(FULL) == 0
    require_reachable(url)


class AwayError(Exception):
    """As botocore has it: no OSError."""


class AwayFileSystem(MemoryFileSystem):
    """An object store whose server is away."""

    def find(self, *_: object, **__: object) -> None:
        raise AwayError

    cat_file = find


def test_errors_of_the_package_that_reaches_the_place_are_told_as_those_of_a_disk(tmp_path: Path) -> None:
    fsspec.register_implementation("away", AwayFileSystem)
    files = SharedFiles(machine(tmp_path, "a"), "away://place", "fleet")
    for call in (files.take, lambda: files.fetch_run(FULL), files.fetch_records):
        with pytest.raises(OSError, match="AwayError"):
            call()


def test_nobody_who_waits_is_no_error_of_the_place(tmp_path: Path, place: Path) -> None:
    def leave() -> None:
        raise LeftError

    with pytest.raises(LeftError):
        SharedFiles(machine(tmp_path, "a"), str(place), "fleet", beat=leave).take()


def test_another_study_of_the_name_neither_gives_nor_loses_files(tmp_path: Path, place: Path) -> None:
    a, b = machine(tmp_path, "a"), machine(tmp_path, "b")
    began = "2026-01-31T22:00:00+00:00"
    first = SharedFiles(a, str(place), "fleet", began)
    write(a, f"{FULL}/checkpoint.txt", "of a study before")
    assert first.take() > 0
    before = there(place)
    other = SharedFiles(b, str(place), "fleet", "2026-02-01T22:00:00+00:00")
    for use in (other.take, other.fetch_records, lambda: other.fetch_run(FULL)):
        with pytest.raises(OSError, match=f"another study of this name, begun {re.escape(began)}: name another place"):
            use()
    assert there(place) == before and not (b.root / FULL).exists()
    own = SharedFiles(b, str(place), "fleet", began)
    assert own.fetch_records() > 0 and own.fetch_run(FULL) > 0 and own.take() > 0
    assert not (b.root / ".study").exists()
