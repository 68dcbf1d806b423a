"""`report`, `compare` and `timeline` for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import study_builder
from typer.testing import CliRunner

from autotune.cli import history, studies
from autotune.cli.answers.catalogue import ANSWERS
from autotune.cli.main import app
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord
from reports import timeline
from reports.figures import pictures


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, StudyRecord]:
    """Two studies by their name, the later one first, on a machine that draws no pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    found = {}
    for name, created in (("second", "2026-02-01"), ("first", "2026-01-01")):
        record = study_builder.study(spec=study_builder.spec(name), created_at=created)
        found[name] = replace(record, run=RunDirectory(tmp_path / "runs" / name))
    for module, name in ((history, "read_named"), (studies, "read_named"), (studies, "read_with_shared_files")):
        monkeypatch.setattr(module, name, lambda name, out, storage: found[name])
    return found


def answer(command: str, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [command, *arguments, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert ANSWERS[command].model_validate(told).model_dump(mode="json", by_alias=True) == told
    return dict(told)


def test_studies_are_compared_for_programs(named: dict[str, StudyRecord]) -> None:
    told = answer("compare", "second", "first")
    assert [entry["study"] for entry in told["studies"]] == ["first", "second"]
    entry = told["studies"][0]
    verdict = named["first"].verdict
    assert verdict is not None and verdict.gain is not None and verdict.baseline_loss is not None
    assert entry["gain_frac"] == pytest.approx(verdict.gain / verdict.baseline_loss)
    assert entry["busy_s"] > 100 and entry["trials"] == 12
    assert Path(told["page"]).is_file()


def test_all_studies_are_listed_for_programs(named: dict[str, StudyRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    listed = timeline.timeline(list(named.values()), {"broken": "torn"})
    monkeypatch.setattr(timeline, "read_timeline", lambda out, storage: listed)
    told = answer("timeline")
    assert [(entry["study"], entry["kind"]) for entry in told["studies"]] == [("first", "A"), ("second", "A")]
    assert list(told["kinds"]) == ["A"] and told["unreadable"] == {"broken": "torn"}
    assert told["pictures"] == [] and Path(told["page"]).is_file()


def test_a_report_says_where_it_is(named: dict[str, StudyRecord]) -> None:
    told = answer("report", "first")
    assert Path(told["report"]).is_file() and told["study"] == "first"
    assert told["pictures"] == [] and "kaleido" in told["no_pictures_why"]
    assert told["says"][-1].startswith("next: ")
