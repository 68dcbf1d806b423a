"""How a study stands, from stored records."""

from __future__ import annotations

from pathlib import Path

from study_case import make_queue, make_study, result

from autotune import standing
from autotune.records import TrialResult, TrialStatus
from autotune.run_directory import log_event
from autotune.storage import read_study


def test_before_the_first_trial(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    assert standing.describe(standing.of(read_study(queue.run.root))) == "night: not running\ntrials of 3: none yet"


def test_in_the_middle(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    for loss in (2.5, 2.25):
        assignment = queue.take()
        assert assignment is not None
        queue.tell(assignment.trial, result(loss=loss), assignment.folder)
    assignment = queue.take()
    assert assignment is not None
    queue.tell(assignment.trial, TrialResult(TrialStatus.CRASHED, "planned"), assignment.folder)
    queue.optuna_study.set_user_attr("full", {"status": "running"})
    log_event(queue.run, "ended", "trial 2 crashed")
    with queue.run.held():
        stands = standing.of(read_study(queue.run.root))
    assert standing.describe(stands).splitlines() == [
        f"night: running as PID {stands['running_pid']}",
        "trials of 3: 2 finished, 1 crashed",
        "best so far (one seed): trial 1, loss 2.2500",
        "last: trial 2 crashed",
    ]
    assert (stands["best_trial"], stands["full_run"], stands["verdict"]) == (1, "running", None)
