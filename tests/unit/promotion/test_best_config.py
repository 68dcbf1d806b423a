"""From the verdict to a configuration file."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_case import make_study, result

from autotune.core.attributes import Snapshot, StudyAttributes
from autotune.core.promotion_results import LengthChange, Promotion
from autotune.core.records import TrialRecord, TrialStatus, Verdict, VerdictWord
from autotune.promotion import best_config
from autotune.promotion.best_config import best_config_of, git_commit, provenance
from autotune.promotion.horizon import Horizon
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord
from autotune.study.trainer import load_trainer

BASELINE = TrialRecord(0, {"lr": 0.001}, TrialStatus.FINISHED, result(loss=3.0), role="baseline")
WINNER = TrialRecord(4, {"lr": 0.01}, TrialStatus.FINISHED, result(loss=2.9))
BETTER = Verdict(
    VerdictWord.BETTER, "better on\nfresh seeds", 4, {"lr": 0.01}, (1002, 1003), 3.0, 2.9, 0.1, 0.05, 0.15, None, 0.01
)


@pytest.fixture
def record(tmp_path: Path) -> StudyRecord:
    study = make_study(tmp_path, 'base.output.dir=""', "seed=3")
    run = RunDirectory(tmp_path / "runs" / "night")
    return StudyRecord(
        run,
        study.spec,
        (BASELINE, WINNER),
        verdict=BETTER,
        attributes=StudyAttributes(
            Snapshot(
                {"provenance": provenance(study.spec, {"name": "T4", "driver_version": "535"}, {"data_hash": "abc"})}
            )
        ),
    )


# --- best_config.toml ---


AS_IS = Promotion(4, 1_000, 8_000, None)


def write(record: StudyRecord, trial: TrialRecord = WINNER, promotion: Promotion = AS_IS) -> Path:
    best_config = best_config_of(load_trainer("fake_trainer:train"), record, trial, BETTER.reason, promotion)
    best_config.write(record.run.best_config)
    return record.run.best_config


def test_what_changes_for_the_longer_run_is_in_the_file_with_its_reason(record: StudyRecord) -> None:
    change = LengthChange("lr", 0.01, 0.005, "learning rate x 0.5")
    scaling = Horizon({"lr": 0.1}, {"lr": "learning_rate"}, 1_000).rate(8_000, batch=1.0)
    path = write(record, promotion=Promotion(4, 1_000, 8_000, scaling, (change,)))
    content = tomllib.loads(path.read_text())
    assert content["config"]["lr"] == 0.005
    assert content["promotion"]["changes"] == [
        {"path": "lr", "before": 0.01, "after": 0.005, "why": "learning rate x 0.5"}
    ]
    assert content["promotion"]["scaling"]["exponent"] == pytest.approx(-0.25)
    assert "# lr: 0.01 in the trial; learning rate x 0.5\n" in path.read_text()


def test_the_file_holds_the_whole_config_and_where_it_comes_from(record: StudyRecord) -> None:
    path = write(record)
    content = tomllib.loads(path.read_text())
    assert (content["trainer"], content["tokens"]) == ("fake_trainer:train", 8_000)
    assert content["config"] == {**record.spec.base, "lr": 0.01, "seed": 3}
    kept = content["provenance"]
    assert {name: kept[name] for name in ("study", "spec_hash", "data_hash", "gpu", "driver", "trial", "why")} == {
        "study": "night",
        "spec_hash": record.spec.fingerprint(),
        "data_hash": "abc",
        "gpu": "T4",
        "driver": "535",
        "trial": 4,
        "why": BETTER.reason,
    }
    assert (kept["word"], kept["gain"], kept["gain_low"], kept["seeds"]) == ("better", 0.1, 0.05, [1002, 1003])
    assert {"python", "torch", "optuna"} <= kept["versions"].keys()


def test_the_header_is_a_comment_whatever_the_reason_holds(record: StudyRecord) -> None:
    first, second, empty = write(record).read_text().splitlines()[:3]
    assert first == "# Settings of trial 4 of study night: better on fresh seeds"
    assert second == f"# Train them with: autotune train {record.run.best_config}"
    assert empty == ""


def test_its_provenance_goes_to_the_model_card_a_line_each(record: StudyRecord) -> None:
    lines = best_config_of(load_trainer("fake_trainer:train"), record, WINNER, BETTER.reason, AS_IS).card_lines()
    for line in ("study: night", "gpu: T4", "data hash: abc", "trial: 4", "why: better on fresh seeds", "gain: 0.1"):
        assert line in lines
    (versions,) = (line for line in lines if line.startswith("versions: "))
    assert versions.startswith("versions: python 3.")
    assert ", torch " in versions
    assert "seeds: 1002, 1003" in lines


def test_a_proof_is_claimed_for_the_winner_alone(record: StudyRecord) -> None:
    kept = tomllib.loads(write(record, BASELINE).read_text())["provenance"]
    assert not {"word", "gain", "seeds"} & kept.keys()


def test_a_setting_without_a_value_is_left_out(record: StudyRecord) -> None:
    base = {**record.spec.base, "odd": {"nothing": None, "list": [1, None, 2]}}
    content = tomllib.loads(write(replace(record, spec=record.spec.model_copy(update={"base": base}))).read_text())
    assert content["config"]["odd"] == {"list": [1, 2]}


# --- the commit ---


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    answer = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    file = tmp_path / "package" / "best_config.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    monkeypatch.setattr(best_config, "__file__", str(file))
    assert git_commit() == ""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit() == commit
    (tmp_path / "untracked.txt").touch()
    assert git_commit() == commit
    file.write_text("x = 2\n")
    assert git_commit() == f"{commit}+changes"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_commit() == ""


def test_provenance_survives_a_trainer_without_facts(record: StudyRecord) -> None:
    facts: Mapping[str, Any] = {}
    kept = provenance(record.spec, {}, facts)
    assert (kept["data_hash"], kept["gpu"], kept["spec_hash"]) == ("", "", record.spec.fingerprint())
