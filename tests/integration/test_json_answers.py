"""`--json` of commands that work: one object on stdout, which their schema describes, and people's words on stderr."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from study_folder import COPIED_LOG, StudyFolder

from autotune.cli.answers.catalogue import ANSWERS


def answer_of(done: subprocess.CompletedProcess[str], command: str) -> dict[str, Any]:
    """Returns what a command answers, and sees to it that it is all of stdout and is as its schema says."""
    told = json.loads(done.stdout, parse_constant=pytest.fail)
    assert told["schema"] == f"autotune.{command}/1", done.stderr
    assert ANSWERS[command].model_validate(told).model_dump(mode="json", by_alias=True) == told
    return dict(told)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, Any]) -> StudyFolder:
    """A study that `run --json` has run to its end."""
    folder = StudyFolder(tmp_path_factory.mktemp("trained"), hardware)
    folder.write(base=COPIED_LOG, budget={"trials": 3}, finals={"attribute_seeds": 0}).place_hardware()
    done = folder.whole_command("run", str(folder.file), "--json")
    assert done.returncode == 0, done.stderr
    folder.root.joinpath("run.json").write_text(done.stdout)
    folder.root.joinpath("run.txt").write_text(done.stderr)
    return folder


def test_a_run_answers_with_its_end(trained: StudyFolder) -> None:
    done = subprocess.CompletedProcess([], 0, trained.root.joinpath("run.json").read_text(), "")
    told = answer_of(done, "run")
    record = trained.record()
    assert record.verdict is not None
    assert (told["exit_code"], told["state"], told["running_pid"]) == (0, "done", None)
    assert (told["verdict"], told["gain"]) == (str(record.verdict.word), record.verdict.gain)
    assert sum(told["trials"].values()) == len(record.trials) == 3
    assert (trained.root / told["report"]).is_file()

    for_people = trained.root.joinpath("run.txt").read_text()
    assert "probing the baseline" in for_people
    assert all(line in for_people for line in told["says"])


def test_what_is_asked_of_an_ended_study(trained: StudyFolder, folder: StudyFolder) -> None:
    folder.copy_of(trained)
    status = folder.command("status", "fake", "--json")
    told = answer_of(subprocess.CompletedProcess([], 0, status.text, ""), "status")
    assert told["next"] and told["best_loss"] is not None

    promoted = folder.whole_command("promote", "fake", "--tokens", "200000", "--json")
    told = answer_of(promoted, "promote")
    assert (promoted.returncode, told["full_run"], told["full_run_seen_tokens"]) == (0, "finished", 200_000)


def test_the_training_of_a_file_answers_with_where_it_is(trained: StudyFolder, folder: StudyFolder) -> None:
    folder.copy_of(trained)
    told = answer_of(
        folder.whole_command("train", "runs/fake/best_config.toml", "--tokens", "100000", "--json"), "train"
    )
    assert (told["exit_code"], told["tokens"], told["seen_tokens"], told["next"]) == (0, 100_000, 100_000, None)
    assert Path(told["folder"]).parts[:3] == ("runs", "fake", "full") and 0 < told["loss"] < 10
