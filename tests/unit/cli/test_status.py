"""The state of a study, from stored records."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import study_builder
from study_case import make_queue, make_study, result

from autotune.cli import status
from autotune.core.peers import Peer
from autotune.core.records import TrialRecord, TrialResult, TrialStatus, Verdict, VerdictWord
from autotune.store.run_directory import log_event
from autotune.store.study_record import read_study
from reports import page


def test_before_the_first_trial(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    assert status.describe(status.summarize(read_study(queue.run.root))).splitlines() == [
        "night: not running",
        "trials: none yet; 3 at most",
        "Nothing of the study has been trained yet; this begins it.",
        "next: autotune run night",
    ]


def test_with_its_verdict(tmp_path: Path) -> None:
    queue = make_queue(tmp_path / "elsewhere", make_study(tmp_path))
    queue.optuna_study.set_user_attr("verdict", Verdict(VerdictWord.FAILED, "nothing finished").to_json())
    *_, verdict, _, after = status.describe(status.summarize(read_study(queue.run.root))).splitlines()
    assert (verdict, after) == ("verdict: failed", "next: autotune doctor")


def test_a_verdict_comes_with_its_gain_as_the_report_writes_it(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    verdict = Verdict(VerdictWord.INCONCLUSIVE, "", gain=0.0105, gain_low=-0.0139, gain_high=0.03479)
    queue.optuna_study.set_user_attr("verdict", verdict.to_json())
    state = status.summarize(read_study(queue.run.root))
    assert "verdict: inconclusive, gain in loss +0.0105 (95 % interval \N{MINUS SIGN}0.0139 to +0.0348)" in (
        status.describe(state).splitlines()
    )
    assert state["gain_low"] == -0.0139


def test_the_gain_of_what_is_promoted_comes_before_that_of_the_whole_winner() -> None:
    state = status.summarize(study_builder.attributed_study())
    assert (
        "verdict: better, gain in loss +0.3750 with the promoted settings; +0.3800 with all changes of the winner "
        "(95 % interval +0.3552 to +0.4048)"
    ) in status.describe(state).splitlines()
    assert state["promoted_loss"] == 4.645


@pytest.mark.parametrize("name", ["finished", "attributed", "empty", "running", "failed"])
def test_it_names_the_same_next_step_as_the_report(name: str) -> None:
    record = study_builder.STUDIES[name]()
    *_, what, after = status.describe(status.summarize(record)).splitlines()
    shown = page.summary_lines(record)
    assert what in shown
    assert shown[-1].startswith(after)
    assert after.removeprefix("next: ") in page.study_page(record)


def test_an_interrupted_run_on_a_fresh_seed_is_not_counted(tmp_path: Path) -> None:
    record = read_study(make_queue(tmp_path, make_study(tmp_path)).run.root)
    runs = (TrialRecord(0, {}, TrialStatus.FINISHED), TrialRecord(1, {}, TrialStatus.INTERRUPTED))
    state = status.summarize(replace(record, finals=runs))
    assert "runs on fresh seeds: 1 of 1 finished" in status.describe(state).splitlines()


def test_in_the_middle(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    for loss in (2.5, 2.25):
        assignment = queue.take()
        assert assignment is not None
        queue.tell(assignment.trial, result(loss=loss), assignment.folder)
    assignment = queue.take()
    assert assignment is not None
    queue.tell(assignment.trial, TrialResult(TrialStatus.CRASHED, "planned"), assignment.folder)
    full = {
        "status": "running",
        "tokens": 8_000,
        "tokens_seen": 2_000,
        "end_tokens": 5_000,
        "done_at": time.time() + 30,
    }
    queue.optuna_study.set_user_attr("full", full)
    log_event(queue.run, "ended", "trial 2 crashed")
    done = datetime.fromtimestamp(full["done_at"])
    with queue.run.held():
        state = status.summarize(read_study(queue.run.root))
    assert status.describe(state).splitlines() == [
        f"night: running as PID {state['running_pid']}",
        "trials: 2 finished, 1 crashed; 3 at most",
        "best so far (one seed): trial 1, loss 2.2500",
        f"full run: 25 % of 8,000 tokens, will end at 5,000, done about {done:%H:%M}",
        "last event: trial 2 crashed",
        "The full run is in progress; this shows its page live (autotune stop night parks it).",
        "next: autotune watch night",
    ]
    assert (state["best_trial"], state["full_run"], state["verdict"]) == (1, "running", None)


@pytest.mark.parametrize(
    ("full", "line", "after"),
    [
        (
            {"status": "running", "tokens": 8_000, "tokens_seen": 2_000, "done_at": 1.0},
            "full run: 25 % of 8,000 tokens, not running",
            "autotune promote night",
        ),
        (
            {"status": "finished", "tokens": 8_000, "tokens_seen": 5_000, "end_tokens": 5_000},
            "full run: 62 % of 8,000 tokens, finished",
            "autotune promote night --tokens 16000",
        ),
        (
            {"status": "waiting", "tokens": 8_000, "tokens_seen": 0},
            "full run: 0 % of 8,000 tokens, waiting",
            "autotune promote night",
        ),
    ],
)
def test_a_full_run_that_does_not_train_now(tmp_path: Path, full: dict[str, object], line: str, after: str) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    queue.optuna_study.set_user_attr("verdict", Verdict(VerdictWord.BETTER, "").to_json())
    queue.optuna_study.set_user_attr("full", full)
    lines = status.describe(status.summarize(read_study(queue.run.root))).splitlines()
    assert (lines[-3], lines[-1]) == (line, f"next: {after}")


def test_of_a_shared_study_it_says_who_works_on_it_and_at_what() -> None:
    running = study_builder.running_study()
    trials = [
        replace(trial, peer="0f3a77c1") if trial.status is TrialStatus.RUNNING else trial for trial in running.trials
    ]
    numbers = [trial.number for trial in trials if trial.peer]
    peers = (
        Peer("9d00e1aa", "pod-2", "", "2026-11-29T21:00:00+00:00", doing="plan", coordinates=True),
        Peer("0f3a77c1", "pod-1", "Tesla T4", "2026-11-29T21:05:00+00:00", doing="search"),
    )
    state = status.summarize(replace(running, trials=tuple(trials), peers=peers))
    assert [(peer["role"], peer["doing"]) for peer in state["peers"]] == [
        ("coordinator", "plan"),
        ("worker", ", ".join(f"trial {number}" for number in numbers)),
    ]
    first, coordinator, worker, *_ = status.describe(state).splitlines()
    assert first.endswith("by 2 processes")
    alone = replace(running, trials=tuple(trials), peers=(replace(peers[1], is_worker=True),))
    assert "wait for a process that coordinates" in status.describe(status.summarize(alone))
    assert "9d00e1aa on pod-2, a device that is being measured" in coordinator
    assert "0f3a77c1 on pod-1, Tesla T4" in worker and worker.endswith(f"trial {numbers[-1]}")
