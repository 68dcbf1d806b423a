"""This version goes on with studies that an earlier one began; `runs_of_before/README.md` says how they were made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from autotune.cli.main import app
from autotune.core.records import TrialRecord, TrialStatus
from autotune.store.study_record import StudyRecord, read_study

ARCHIVE = Path(__file__).parent / "runs_of_before" / "runs.tar.xz"
FAKES = Path(__file__).parents[1] / "fakes"
NAMES = ("parked", "killed", "halfway", "finished")
# Seed, learning rate and tokens of the training that was interrupted in each study.
INTERRUPTED: dict[str, set[tuple[int, float, int]]] = {
    "parked": {(1, 0.012, 100_000)},
    "killed": {(1, 0.012, 50_000)},
    "halfway": {(1, 0.01, 400_000)},
    "finished": set(),
}
# Probes of the baseline are shorter than this; trials, finals and full runs are longer.
PROBE_TOKENS = 10_000
# Far longer than a command takes on a busy machine: it only ends a test that hangs.
PATIENCE_S = 120.0


def unpack(folder: Path) -> Path:
    """Put the studies into a folder, as the earlier version left them."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the studies, for one test."""
    return unpack(tmp_path)


def autotune(folder: Path, *arguments: str) -> str:
    """Run a command in a folder, expect it to succeed, and return what it printed."""
    path = [str(FAKES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "CUDA_VISIBLE_DEVICES": "",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "autotune", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def said_before(folder: Path, name: str, what: str) -> dict[str, Any]:
    """Return what the earlier version said of a study: "status" or "report"."""
    return dict(json.loads((folder / "said" / f"{name}.{what}.json").read_text()))


def report_now(folder: Path, name: str) -> dict[str, Any]:
    """Return the report of a study as JSON, where there is a page beside it."""
    report = folder / "runs" / name / "report"
    assert name in (report / "index.html").read_text()
    return dict(json.loads((report / "report.json").read_text()))


def results(folder: Path, name: str, queue: str) -> dict[int, dict[str, Any]]:
    """Return the results of the trials, or the finals, that are there as files, by number."""
    files = (folder / "runs" / name / queue).glob("*/result.json")
    return {int(file.parent.name): json.loads(file.read_text()) for file in files}


def trainings(folder: Path, name: str) -> Counter[tuple[int, float, int]]:
    """Count the trainings that began, probes left out, by seed, learning rate and tokens."""
    lines = (folder / "log" / name / "started.txt").read_text().splitlines()
    begun = [line.split() for line in lines]
    told = [(int(seed), float(lr), int(tokens)) for _, seed, lr, tokens in begun]
    return Counter(training for training in told if training[-1] >= PROBE_TOKENS)


def asked(folder: Path, *arguments: str) -> str:
    """Run a command that only reads, in this process, and return what it printed."""
    with contextlib.chdir(folder):
        ended = CliRunner().invoke(app, list(arguments))
    assert ended.exit_code == 0, ended.output
    return ended.stdout


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_as_the_earlier_version_read_it(folder: Path, name: str) -> None:
    status = json.loads(asked(folder, "status", name, "--json"))
    before = said_before(folder, name, "status")
    # A later version may say more, and tells the next command in words of its own.
    del before["next"]
    assert {key: status[key] for key in before} == before
    assert status["next"]

    asked(folder, "report", name)
    report, before = report_now(folder, name), said_before(folder, name, "report")
    assert report["headline"]["word"] == before["headline"]["word"]
    for key in ("verdict", "attribution", "left_at_default", "config"):
        assert report[key] == before[key], key
    # A later version may say more of a full run and of what it changes.
    for key in ("full", "promotion"):
        assert _as_far_as(before[key], report[key]) == before[key], key


def _as_far_as(before: Any, now: Any) -> Any:
    """Return what is told now without the names that were not told before."""
    if isinstance(before, dict):
        return {name: _as_far_as(before[name], now[name]) for name in before}
    if isinstance(before, list):
        return [_as_far_as(each, other) for each, other in zip(before, now, strict=True)]
    return now


@dataclass(frozen=True)
class GoneOn:
    """A study that this version went on with.

    Args:
        name: Its name.
        before: A folder with the studies as the earlier version left them.
        folder: The folder in which this version worked.
    """

    name: str
    before: Path
    folder: Path

    @property
    def record(self) -> StudyRecord:
        """What is stored now."""
        return read_study(self.folder / "runs" / self.name)


@pytest.fixture(scope="module", params=NAMES)
def gone_on(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GoneOn:
    """Each of the studies after `autotune run`; to be looked at only."""
    before = unpack(tmp_path_factory.mktemp("before"))
    folder = unpack(tmp_path_factory.mktemp("gone_on"))
    autotune(folder, "run", f"{request.param}.toml")
    return GoneOn(request.param, before, folder)


def test_it_goes_on_to_its_verdict_and_report(gone_on: GoneOn) -> None:
    verdict = gone_on.record.verdict
    assert verdict is not None
    assert report_now(gone_on.folder, gone_on.name)["headline"]["word"] == verdict.word
    assert (gone_on.folder / "runs" / gone_on.name / "best_config.toml").exists()

    before = said_before(gone_on.before, gone_on.name, "status")["verdict"]
    assert before in (None, verdict.word)


@pytest.mark.parametrize("queue", ["trials", "finals"])
def test_what_was_done_is_kept(gone_on: GoneOn, queue: str) -> None:
    before = results(gone_on.before, gone_on.name, queue)
    assert before
    assert before.items() <= results(gone_on.folder, gone_on.name, queue).items()
    assert_kept(before, getattr(gone_on.record, queue))


def assert_kept(before: dict[int, dict[str, Any]], now: tuple[TrialRecord, ...]) -> None:
    """Assert that trials have the status, the settings and the losses that they had."""
    assert before.keys() <= {trial.number for trial in now}
    for number, stored in before.items():
        trial = now[number]
        assert trial.number == number and trial.status == stored["status"] and trial.result is not None
        assert dict(trial.result.config) == stored["config"]
        losses = [point["val_loss"] for point in stored["points"]]
        assert [point.val_loss for point in trial.result.points] == losses

        pruned = trial.status is TrialStatus.PRUNED
        assert trial.stopped_at == (stored["points"][-1]["tokens_seen"] if pruned else None)


def test_nothing_is_trained_again_but_what_was_interrupted(gone_on: GoneOn) -> None:
    begun = trainings(gone_on.before, gone_on.name)
    trained = trainings(gone_on.folder, gone_on.name) - begun
    assert trained & begun == Counter(INTERRUPTED[gone_on.name])

    record = gone_on.record
    assert "resumed" in {event["kind"] for event in record.events}  # by the stored plan, without another
    counted = [trial for trial in record.trials if trial.status is not TrialStatus.INTERRUPTED]
    assert len(counted) == record.spec.budget.trials

    # A parked trial was queued again when it was parked; a killed one is queued again when the study goes on.
    interrupted = [trial.number for trial in record.trials if trial.status is TrialStatus.INTERRUPTED]
    repeats = [trial for trial in record.trials if trial.retry_of is not None]
    assert [trial.retry_of for trial in repeats] == interrupted
    assert len(interrupted) == (gone_on.name in ("parked", "killed"))
    for repeat in repeats:
        assert repeat.status is TrialStatus.FINISHED
        assert repeat.params == record.trials[interrupted[0]].params


def test_trials_of_equal_seconds_keep_their_budgets(gone_on: GoneOn) -> None:
    record = gone_on.record
    budgets = {(trial.params.get("experts"), trial.budget_tokens) for trial in record.trials}
    if record.spec.objective == "loss_at_equal_seconds":
        assert budgets == {(1, 100_000), (2, 50_000)}
    else:
        assert {tokens for _, tokens in budgets} == {None}


def test_run_goes_on_with_the_full_run_from_its_checkpoint(gone_on: GoneOn) -> None:
    if gone_on.name == "halfway":
        assert_ended_from_its_checkpoint(gone_on.folder)
        queue = "full/trial-0001-400000-tokens"
        before, now = (results(folder, gone_on.name, queue) for folder in (gone_on.before, gone_on.folder))
        assert now.keys() == {0, 1} and now[0] == before[0]
    else:
        assert report_now(gone_on.folder, gone_on.name)["full"] is None


def test_promote_goes_on_with_the_full_run_from_its_checkpoint(folder: Path) -> None:
    assert (
        autotune(folder, "generate", "halfway", "--trainer", "resuming_fake_trainer:train")
        == "trained on 200000 tokens\n"
    )

    autotune(folder, "promote", "halfway", "--yes")

    assert_ended_from_its_checkpoint(folder)
    assert (
        autotune(folder, "generate", "halfway", "--trainer", "resuming_fake_trainer:train")
        == "trained on 400000 tokens\n"
    )


def assert_ended_from_its_checkpoint(folder: Path) -> None:
    """Assert that the full run that was parked at half of its tokens was trained for the other half."""
    assert (folder / "log" / "halfway" / "begun_at.txt").read_text().split() == ["0", "200000"]
    full = report_now(folder, "halfway")["full"]
    assert (full["status"], full["tokens_seen"]) == ("finished", 400_000)
    assert full["points"][0]["tokens_seen"] > 200_000


def test_the_settings_found_can_be_trained_and_promoted(folder: Path) -> None:
    path = folder / "runs" / "finished" / "best_config.toml"
    before = tomllib.loads(path.read_text())
    autotune(folder, "train", str(path.relative_to(folder)))
    assert trainings(folder, "finished")[before["config"]["seed"], before["config"]["lr"], before["tokens"]] == 1

    autotune(folder, "promote", "finished", "--tokens", "200000", "--yes")

    promoted = tomllib.loads(path.read_text())
    for place in ("log_dir", "output"):
        del before["config"][place], promoted["config"][place]
    # The trainer has gained settings since, which have their defaults.
    assert {path: promoted["config"][path] for path in before["config"]} == before["config"]
    assert promoted["provenance"]["seeds"] == before["provenance"]["seeds"]
    full = report_now(folder, "finished")["full"]
    assert (full["status"], full["tokens_seen"]) == ("finished", 200_000)


def test_studies_are_put_side_by_side(folder: Path) -> None:
    text = asked(folder, "compare", "parked", "finished")
    assert "parked" in text and "finished" in text
    assert (folder / "runs" / "compare" / "index.html").exists()

    text = asked(folder, "timeline")
    assert "halfway" in text and "finished" in text


def test_a_new_study_starts_from_one_of_before(folder: Path) -> None:
    study = tomllib.loads((folder / "parked.toml").read_text())
    study |= {"name": "next", "warm_start": ["runs/parked"]}
    study["budget"]["trials"] = 3
    del study["enqueue"]
    (folder / "next.toml").write_text(tomli_w.dumps(study))
    (folder / "runs" / "next").mkdir()
    shutil.copy(folder / "runs" / "parked" / "hardware.json", folder / "runs" / "next")

    autotune(folder, "run", "next.toml")

    best = read_study(folder / "runs" / "parked").trials[1].params
    assert best in [trial.params for trial in read_study(folder / "runs" / "next").trials]
