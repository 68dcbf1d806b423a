"""A hand on the wheel of a study that really runs: what is asked counts once, also after a kill."""

from __future__ import annotations

import signal

import pytest
from study_folder import StudyFolder, wait_for

import autotune
from autotune.cli import status
from autotune.core.records import TrialStatus
from autotune.engine.deadline import REPORT_S
from autotune.promotion.early_end import EXPORT_S
from reports.page import write_report


def test_a_running_study_is_steered_and_goes_on_so_after_a_kill(folder: StudyFolder) -> None:
    """Trials above 0.05 stand at a gate after their second evaluation; two of them are queued after the default."""
    folder.write(
        budget={"trials": 9},
        base={"fault": "gate", "fault_above": 0.05},
        enqueue=[{"lr": 0.1}, {"lr": 0.2}],
        pruner={"name": "none"},
    )
    run = folder.start("--hours", "8")
    folder.wait_at_gate()

    # While the process stands still, nobody can take up what is asked; then it is killed.
    run.signal(signal.SIGSTOP)
    asked = folder.command(
        "steer", "fake", "--stop-trial", "1", "--add", "lr=0.02", "--range", "lr=0.005..0.05", "--trials", "6"
    )
    assert asked.end() == 0, asked.text
    assert asked.text.splitlines() == [
        "trial 1 ends after its next evaluation; it is not trained again",
        "lr is searched in 0.005 to 0.05 (log) from the next trial on (before: 0.0001 to 1.0 (log)); trials outside "
        "of that still teach",
        "a trial with lr = 0.02 is trained as soon as a device is free",
        "the search ends after 6 trials at most (before: 9)",
    ]
    run.kill()
    folder.wait_until_empty()
    assert [each["done"] for each in status.summarize(folder.record())["steered"]] == [None] * 4

    (folder.log / "at-gate.txt").unlink()
    run = folder.start("--hours", "8")
    folder.wait_at_gate()
    assert "you lowered the number of trials from 9 to 6." in run.text
    study = autotune.load(folder.directory().root)
    with pytest.raises(autotune.UserError, match=r"trial 1: it has ended already \(stopped\)"):
        study.steer(stop_trial=[1, 2])
    assert study.steer(stop_trial=2, hours=2)[1].endswith(", in 2.0 h")
    # It has read both once it says so of one of them.
    assert run.says("you moved the end to ")
    folder.open_gate()
    assert run.end() == 0, run.text

    record = folder.record()
    trials = {trial.number: trial for trial in record.trials}
    assert [trials[number].status for number in (1, 2)] == [TrialStatus.STOPPED] * 2
    assert [len(trials[number].result.points) for number in (1, 2)] == [2, 3]  # type: ignore[union-attr]
    assert not [trial for trial in record.trials if trial.retry_of is not None]
    assert [number for number, trial in trials.items() if trial.params["lr"] == 0.02] == [3]
    assert list(trials) == [0, 1, 2, 3, 4, 5]
    assert all(0.005 <= trials[number].params["lr"] <= 0.05 for number in (4, 5))
    assert record.verdict is not None and record.verdict.seeds

    told = [request.sentence().partition(" you ")[2] for request in record.attributes.requests]
    assert told[:5] == [
        "stopped trial 1.",
        "narrowed lr to 0.005 to 0.05 (before: 0.0001 to 1).",
        "added trial 3 with lr = 0.02.",
        "lowered the number of trials from 9 to 6.",
        "stopped trial 2.",
    ]
    said = status.describe(status.summarize(record))
    assert all(sentence in said for sentence in told)

    refused = folder.command("steer", "fake", "--trials", "20")
    assert refused.end() == 2 and "fake is finished, so there is nothing to steer" in refused.text


def test_a_full_run_ends_sooner_where_its_end_is_moved_and_says_so(folder: StudyFolder) -> None:
    """It would take 80 s; 14 are left beside those for its export and the report, and more when it is too late."""
    full = {"automatic": True, "tokens": 4_000_000}
    base = {"seconds": 2.0, "obeys": True, "data": {"num_evals": 10}}
    folder.write(budget={"trials": 1}, base=base, finals={"finalists": 0}, promote=full)
    run = folder.start("--hours", "8")
    assert run.says("full run of 4,000,000 tokens begins")
    study = autotune.load(folder.directory().root)
    study.steer(hours=(14 + REPORT_S + EXPORT_S) / 3600)
    assert run.says("the full run will end at "), run.text
    wait_for(lambda: _is_past_half(folder))
    study.steer(hours=1)
    assert run.end() == 0, run.text

    record = folder.record()
    ended = record.attributes.full_run
    assert ended.status == "finished" and ended.tokens_seen == ended.end_tokens < 4_000_000
    assert "there is more time by now, but the full run ends at " in run.text
    history = [event["message"] for event in record.events]
    assert sum("you moved the end to " in line for line in history) == 2
    write_report(record, record.run.report)
    page = (record.run.report / "report.md").read_text()
    assert f"The full run finished at {ended.tokens_seen:,} of 4,000,000 training tokens" in page
    assert page.count("you moved the end to ") >= 2


def _is_past_half(folder: StudyFolder) -> bool:
    full = folder.record().attributes.full_run
    return full is not None and full.end_tokens is not None and 2 * full.tokens_seen > full.end_tokens
