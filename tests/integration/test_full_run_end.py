"""A full run that meets a deadline, a slower machine or a fault: real processes, real storage, known curves."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import fake_trainer
import pytest
from study_folder import StudyFolder

from autotune.cli.status import describe, summarize
from autotune.core.records import TrialStatus
from autotune.engine.deadline import REPORT_S, Deadline
from autotune.night.session import Options, Session
from autotune.progress import observer
from autotune.promotion import early_end, early_warnings
from autotune.store.study_record import read_study
from autotune.study.study_file import load
from reports.page import summary_lines, write_report
from reports.sentences.full_run import full_run_lines
from reports.sentences.health import health_checks

FULL_TOKENS = 400_000
# A single trial, nothing proved, and then its full run.
STUDY = {
    "budget": {"trials": 1},
    "finals": {"finalists": 0},
    "promote": {"tokens": FULL_TOKENS, "automatic": True},
}


class FromTheFullRunOn(Deadline):
    """A deadline that is set when the full run begins, so that nothing before it counts.

    Args:
        folder: The study folder.
        room_s: Seconds that the full run has, besides those that are kept for its export and the report.
    """

    def __init__(self, folder: StudyFolder, room_s: float) -> None:
        super().__init__()
        self._folder = folder
        self._room_s = room_s

    @property
    def seconds_left(self) -> float:
        is_set = super().seconds_left < math.inf
        if not is_set and any(training.tokens == FULL_TOKENS for training in self._folder.started()):
            self.end_within(self._room_s + REPORT_S + early_end.EXPORT_S)
        return super().seconds_left


def session(folder: StudyFolder, said: list[str], **options: object) -> Session:
    folder.place_hardware()
    return Session(load(folder.file), Options(folder.root / "runs", device="cpu", say=said.append, **options))  # type: ignore[arg-type]


def test_a_run_that_becomes_slower_ends_before_its_deadline_with_a_whole_model(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 s of training become 8 when the second half takes three times as long, and there are 6."""
    monkeypatch.setattr(early_warnings, "SLOW_S", 0.5)
    base = {"seconds": 1.0, "fault": "slow", "fault_budget": FULL_TOKENS, "obeys": True, "data": {"num_evals": 10}}
    folder.write(**STUDY, base=base)
    deadline, said = FromTheFullRunOn(folder, room_s=6), []
    assert session(folder, said, deadline=deadline).work() == 0
    assert deadline.seconds_left > REPORT_S
    record = folder.record()
    full = record.attributes.full_run
    assert full.status == "finished"
    assert full.tokens == FULL_TOKENS and full.tokens_seen == full.end_tokens < FULL_TOKENS
    # The curve is that of a training of so many tokens, decayed to its end; it was evaluated as densely as the trial.
    config = fake_trainer.FakeConfig.model_validate(json.loads(_config(folder).read_text()))
    assert full.val_loss == fake_trainer.loss(config, 1.0, full.end_tokens)
    assert config.data.num_evals == 40 and full.points[0].tokens_seen == FULL_TOKENS // 40

    (first, *_) = told = [line for line in said if line.startswith("the full run will end at ")]
    assert f" of {FULL_TOKENS:,} tokens: at " in first and "tokens/s that is what fits until " in first
    assert first in [event["message"] for event in record.events]
    slower = [line for line in said if line.startswith("warning at ")]
    assert len(slower) == 1 and "below the best quarter of this run" in slower[0]
    # Corrections of less than 2 % are not told.
    ends = [int(line.split()[6].replace(",", "")) for line in told]
    assert all(abs(after - before) >= 0.02 * before for before, after in pairwise(ends))
    (line, *_) = full_run_lines(record)
    assert line.startswith(f"The full run finished at {full.end_tokens:,} of {FULL_TOKENS:,} training tokens")
    check = next(found for found in health_checks(record) if found.name == "The full run as it trained")
    assert check.status == "warn" and "below the best quarter" in check.finding
    write_report(record, record.run.report)
    assert line in (record.run.report / "report.md").read_text()
    # It is done: neither going on with the study nor promoting it again trains it once more.
    assert session(folder, []).work() == 0
    assert session(folder, said).promote(FULL_TOKENS, None) == 0
    done = f"the full run of {FULL_TOKENS:,} tokens is finished; it ended at {full.end_tokens:,}, "
    longer = f"for a longer one: autotune promote fake --tokens {2 * FULL_TOKENS}"
    assert f"{done}which was all that fitted; {longer}" in said
    assert sum(training.tokens == FULL_TOKENS for training in folder.started()) == 1
    assert folder.record().attributes.full_run == full


def _config(folder: StudyFolder) -> Path:
    (path,) = folder.directory().full.rglob("config.json")
    return path


def test_a_trainer_that_does_not_listen_is_stopped_at_the_deadline(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(**STUDY, base={"seconds": 1.0, "evaluations": 20})
    monkeypatch.setattr(early_end, "EXPORT_S", 1.0)
    said: list[str] = []
    assert session(folder, said, deadline=FromTheFullRunOn(folder, room_s=1.5)).work() == 0
    assert [line for line in said if line.startswith("the full run will end at ")]
    assert [line for line in said if line.startswith("the trainer has gone past the ")]
    assert said[-1] == "no time is left to resume the full run; to do that later: autotune promote fake"
    stopped, queued = folder.optuna_trials()[f"fake.full-0-{FULL_TOKENS}"]
    assert stopped.user_attrs["result"]["status"] == "interrupted"
    assert stopped.user_attrs["result"]["cause"].endswith("the time was up")
    # The end was decided for the run, and not for this attempt at it.
    assert 0 < queued.user_attrs["end_tokens"] == stopped.user_attrs["end_tokens"] < FULL_TOKENS
    assert folder.record().attributes.full_run.status == "waiting"


class Standing(Deadline):
    """A deadline that is always so far away.

    Args:
        seconds_left: How far.
    """

    def __init__(self, seconds_left: float) -> None:
        super().__init__()
        self._seconds_left = seconds_left

    @property
    def seconds_left(self) -> float:
        return self._seconds_left


@pytest.mark.parametrize(("frac", "begins"), [(0.6, True), (0.5, False)])
def test_a_full_run_begins_if_half_of_it_fits(folder: StudyFolder, frac: float, begins: bool) -> None:
    """With the margin of a tenth that every start asks for."""
    folder.write(**{**STUDY, "promote": {"tokens": FULL_TOKENS}}, base={"seconds": 0.2, "obeys": True})
    assert session(folder, []).work() == 0
    (trial,) = folder.record().trials
    assert trial.result is not None
    said: list[str] = []
    deadline = Standing(frac * 4 * trial.result.seconds + REPORT_S + early_end.EXPORT_S)
    assert session(folder, said, deadline=deadline).promote(FULL_TOKENS, None) == 0
    assert any(training.tokens == FULL_TOKENS for training in folder.started()) is begins
    assert (
        any(line.startswith("no time is left for the full run, not even for 50% of it") for line in said) is not begins
    )


def test_a_crashed_full_run_is_tried_again(folder: StudyFolder) -> None:
    """A first crash after two evaluations is worth another attempt at once; a second at the same place is not."""
    faults = {"fault": "crash", "fault_budget": FULL_TOKENS, "strikes": 3}
    folder.write(**STUDY, base=faults)
    said: list[str] = []
    assert session(folder, said).work() == 1
    record = folder.record()
    assert record.attributes.full_run.status == "crashed"
    assert sum(training.tokens == FULL_TOKENS for training in folder.started()) == 2
    again = "the full run ended: crashed: RuntimeError: planned crash; it is tried again, from its last checkpoint"
    assert sum(line.startswith(again) for line in said) == 1
    # The user's own order is: the third strike is the last, and a fourth attempt meets none.
    assert session(folder, said).promote(FULL_TOKENS, None) == 1, "no full run came of it"
    assert folder.record().attributes.full_run.status == "crashed"
    assert session(folder, said).work() == 0
    full = folder.record().attributes.full_run
    assert (full.status, full.tokens_seen) == ("finished", FULL_TOKENS)
    told = folder.optuna_trials()[f"fake.full-0-{FULL_TOKENS}"]
    assert [trial.user_attrs["result"]["status"] for trial in told] == [TrialStatus.CRASHED] * 3 + [
        TrialStatus.FINISHED
    ]
    assert session(folder, said).work() == 0
    assert len(folder.optuna_trials()[f"fake.full-0-{FULL_TOKENS}"]) == 4


def test_a_full_run_that_diverged_is_not_trained_again(folder: StudyFolder) -> None:
    folder.write(**STUDY, base={"fault": "nan", "fault_budget": FULL_TOKENS})
    said: list[str] = []
    assert session(folder, said).work() == 1
    assert session(folder, said).promote(FULL_TOKENS, None) == 1
    record = folder.record()
    assert record.attributes.full_run.status == "diverged"
    assert sum(training.tokens == FULL_TOKENS for training in folder.started()) == 1
    # The run that diverged says so, and so does the command that would train it again.
    told = [line for line in said if line.startswith("the full run diverged at 240,000 tokens")]
    assert len(told) == 2
    assert all("and would do so again; train another trial (--trial), or a copy of " in line for line in told)
    # There is no other trial here; neither status nor report sends a reader in a circle.
    advised = f"next: autotune train {record.run.best_config}"
    assert describe(summarize(record)).splitlines()[-1] == advised
    assert summary_lines(record)[-1] == advised


def test_page_and_status_while_it_trains(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(**STUDY, base={"fault": "gate", "fault_budget": FULL_TOKENS, "seconds": 0.05})
    monkeypatch.setattr(observer, "REFRESH_EVERY_S", 0.0)
    seen: list[str] = []
    pages: list[str] = []

    def refresh(root: Path) -> None:
        if (folder.log / "at-gate.txt").exists() and not pages:
            record = read_study(root)
            seen.extend([describe(summarize(record)), *full_run_lines(record)])
            pages.append(write_report(record, root / "report").read_text())
            folder.open_gate()

    said: list[str] = []
    assert session(folder, said, refresh=refresh).work() == 0
    status, line, *_ = seen
    assert f"full run: 40 % of {FULL_TOKENS:,} tokens, done about " in status
    assert line.startswith(f"The full run is in progress: 40 % of {FULL_TOKENS:,} tokens at ")
    assert " and should end about " in line
    assert line in pages[0]
    steps = [told for told in said if told.startswith("full run  ")]
    assert steps[1].startswith("full run   40%  loss ") and "tokens/s  done about " in steps[1]
    assert f"full run: 100 % of {FULL_TOKENS:,} tokens, finished" in describe(summarize(folder.record()))
    assert "full run:" in folder.run("status").text
