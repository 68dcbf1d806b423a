"""Commands that read a study, on a folder that somebody else made: nothing outside it is asked, opened or changed."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from study_folder import StudyFolder

READING = (
    ("status", "theirs"),
    ("report", "theirs"),
    ("watch", "theirs"),
    ("compare", "fake", "theirs"),
    ("replay", "theirs"),
    ("status", "runs/theirs/study.toml"),
)


class Host:
    """A host that counts who connects, and hangs up."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            client.close()

    def close(self) -> None:
        """Serves no longer."""
        self._server.close()


@pytest.fixture
def host() -> Iterator[Host]:
    """A host of a stranger's choice."""
    with closing(Host()) as host:
        yield host


@pytest.fixture
def theirs(copy: StudyFolder, host: Host) -> StudyFolder:
    """One's own finished study, with a stranger's beside it that names a database on a host of theirs."""
    folder = copy.root / "runs" / "theirs"
    shutil.copytree(copy.directory().root, folder)
    url = f"postgresql://me:hunter2@127.0.0.1:{host.port}/db"
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, "storage": url}))
    (folder / "study.toml").write_text(f'storage = "{url}"\n' + (folder / "study.toml").read_text())

    # It seems to be the study before one's own, with which one's own is compared.
    lines = (folder / "events.jsonl").read_text().splitlines()
    first = {**json.loads(lines[0]), "time": 1.0}
    (folder / "events.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    return copy


def test_a_database_that_a_folder_names_is_not_asked(theirs: StudyFolder, host: Host) -> None:
    for arguments in READING:
        ended = theirs.whole_command(*arguments)
        assert ended.returncode == 2, ended.stdout
        assert "a folder's word connects to nothing but itself: if you know that database, give" in ended.stderr
        assert f"postgresql://me:***@127.0.0.1:{host.port}/db" in ended.stderr
    assert host.connections == 0


@pytest.mark.thorough
def test_nor_when_another_study_is_looked_at(theirs: StudyFolder, host: Host) -> None:
    for arguments in (("status", "fake"), ("report", "fake"), ("timeline",)):
        ended = theirs.whole_command(*arguments)
        assert ended.returncode == 0, ended.stderr
        assert "hunter2" not in ended.stdout + ended.stderr
    assert "There is no earlier study" in (theirs.directory().report / "report.md").read_text()

    theirs.write(name="next", warm_start=["runs/theirs"])
    warmed = theirs.whole_command("run", "fake.toml")
    assert warmed.returncode == 2 and "OPTUNA_STORAGE" in warmed.stderr, warmed.stderr
    assert host.connections == 0


@pytest.mark.parametrize("how", ["option", "environment", "study file"])
def test_the_database_that_a_user_names_is_asked(
    theirs: StudyFolder, host: Host, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql://me@127.0.0.1:{host.port}/db"
    arguments = ["status", "theirs"]
    if how == "option":
        arguments += ["--storage", url]
    elif how == "environment":
        monkeypatch.setenv("OPTUNA_STORAGE", url)
    else:
        theirs.write(name="theirs", storage=url)
        arguments = ["status", "fake.toml"]

    ended = theirs.whole_command(*arguments)
    assert ended.returncode == 3 and "cannot connect" in ended.stderr, ended.stderr
    assert host.connections > 0


def test_a_database_that_lies_elsewhere_is_left_as_it_is(copy: StudyFolder) -> None:
    """Another program's, which would be given tables."""
    other = copy.root / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE bookmarks (address)")
    before = other.read_bytes()

    database = copy.directory().database
    database.unlink()
    database.symlink_to(other)
    for name in ("trials", "finals", "full"):
        shutil.rmtree(copy.directory().root / name)
    copy.directory().backup.unlink()

    for command in ("status", "report"):
        ended = copy.whole_command(command, "fake")
        assert ended.returncode == 3 and f"is a link to {other}" in ended.stderr
    assert other.read_bytes() == before
    assert not Path(f"{other}-wal").exists()


def test_no_report_is_written_elsewhere(copy: StudyFolder) -> None:
    elsewhere = copy.root / "elsewhere"
    elsewhere.mkdir()
    copy.directory().report.symlink_to(elsewhere)
    ended = copy.whole_command("report", "fake")
    assert ended.returncode == 2 and f"is a link to {elsewhere}: remove it" in ended.stderr
    assert not list(elsewhere.iterdir())
