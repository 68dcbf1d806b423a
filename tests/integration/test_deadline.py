"""A run with a deadline: what does not fit is not started, and what still runs when the time is up is stopped."""

from __future__ import annotations

import re
import time

import pytest
from study_folder import StudyFolder

from autotune.core.records import TrialStatus
from autotune.engine.deadline import REPORT_S, Deadline
from autotune.night.session import Options, Session
from autotune.promotion.early_end import EXPORT_S
from autotune.study.study_file import load

TRIAL_S = 0.4


def test_nothing_starts_without_time(folder: StudyFolder) -> None:
    """Less is left than the verdict and the report are given."""
    run = folder.write().run("--hours", str(REPORT_S / 2 / 3600))
    assert run.end() == 2, run.text
    assert "s that are left are too short for this study: 4 trials, the 4 runs that prove the gain" in run.text
    assert "give it --hours 0.05 or more" in run.text
    assert all(training.tokens < 100_000 for training in folder.started())
    again = folder.run()
    assert again.end() == 0, again.text


def test_a_probe_that_outlasts_the_night_is_refused(folder: StudyFolder) -> None:
    """Its one evaluation comes after 20 s, and there are 4."""
    run = folder.write(base={"seconds": 500, "evaluations": 1}).run("--hours", str(4 / 3600))
    assert run.end() == 2, run.text
    assert "one trial takes more than" in run.text
    assert _hours_named(run.text) >= 0.1
    assert not folder.record().trials


def test_a_probe_that_shows_a_night_too_short_ends_at_once(folder: StudyFolder) -> None:
    """It would take 200 s; its first evaluations tell that the study takes 11 hours."""
    start = time.monotonic()
    run = folder.write(base={"seconds": 5_000, "evaluations": 100}).run("--hours", "0.05")
    assert run.end() == 2, run.text
    assert time.monotonic() - start < 60
    assert "one trial takes about 8" in run.text
    assert _hours_named(run.text) == pytest.approx(11.1, rel=0.1)


def _hours_named(text: str) -> float:
    named = re.search(r"--hours (\S+) or more", text)
    assert named is not None, text
    return float(named[1])


def test_finals_get_their_time(folder: StudyFolder) -> None:
    """Far more trials are wanted than fit; the search ends early enough for all of the finals."""
    folder.write(budget={"trials": 500}, base={"seconds": TRIAL_S})
    start = time.monotonic()
    seconds = REPORT_S + 12
    run = folder.run("--hours", str(seconds / 3600))
    assert run.end() == 0, run.text
    assert time.monotonic() - start < seconds
    record = folder.record()
    assert 1 <= sum(trial.status.teaches for trial in record.trials) < 500
    # On a busy machine the last of the six may find too little time; a verdict needs the pairs that come first.
    assert sum(final.status is TrialStatus.FINISHED for final in record.finals) >= 4
    assert record.verdict is not None and record.verdict.seeds


def test_a_full_run_of_no_given_length_takes_the_rest_of_the_night(folder: StudyFolder) -> None:
    """24 s beside the export and the report: a few trials and 4 finals of 0.3 s each, and one long run."""
    folder.write(
        budget={"trials": 500, "ends_early": False},
        base={"seconds": 0.3, "obeys": True},
        promote={"automatic": True},
    )
    seconds = REPORT_S + EXPORT_S + 24
    start = time.monotonic()
    run = folder.run("--hours", str(seconds / 3600))
    assert run.end() == 0, run.text
    assert time.monotonic() - start < seconds

    record = folder.record()
    plan, full = record.attributes.plan, record.attributes.full_run
    assert plan is not None and full is not None and full.status == TrialStatus.FINISHED
    assert plan.run_tokens > 5 * 100_000 and full.tokens == record.attributes.run_tokens
    assert full.tokens > 0.7 * plan.run_tokens  # less where the trials turn out slower than the probe
    assert time.monotonic() - start > 0.6 * 18
    assert 4 <= sum(trial.status.teaches for trial in record.trials) < 60
    assert "in the time that the search leaves" in run.text


def test_a_finished_night_is_not_even_measured_again(folder: StudyFolder) -> None:
    folder.write(budget={"trials": 4}, base={"seconds": 0.1, "obeys": True}, promote={"automatic": True})
    hours = str((REPORT_S + EXPORT_S + 12) / 3600)
    assert folder.run("--hours", hours).end() == 0
    full = folder.record().attributes.full_run
    assert full is not None and full.status == TrialStatus.FINISHED

    trained = len(folder.started())
    assert folder.run("--hours", hours).end() == 0
    assert len(folder.started()) == trained


def test_a_slow_first_training_does_not_cost_the_search_its_time(folder: StudyFolder) -> None:
    """It takes twice as long as the others; were the 14 finals expected to, there would be time for nothing else."""
    folder.write(
        budget={"trials": 500, "ends_early": False},
        base={"seconds": 0.3, "fault": "slow", "fault_budget": 50_000, "strikes": 5},
        finals={"prove_seeds": 6, "max_seeds": 6},
    )
    run = folder.run("--hours", str((REPORT_S + 14) / 3600))
    assert run.end() == 0, run.text
    tried = sum(trial.status.teaches for trial in folder.record().trials)
    assert 3 <= tried < 500, run.text
    assert re.search(r"no time for more than \d+ of 500 trials: ", run.text), run.text


class UpAtTheGate(Deadline):
    """A deadline that draws near as soon as a training stands at the gate.

    Args:
        folder: The study folder.
        seconds_left: What is left then.
        opens: Whether the gate opens at once, so that the training may report once more.
    """

    def __init__(self, folder: StudyFolder, seconds_left: float, opens: bool) -> None:
        super().__init__()
        self._folder = folder
        self._at_the_gate_s = seconds_left
        self._opens = opens

    @property
    def seconds_left(self) -> float:
        if not (self._folder.log / "at-gate.txt").exists():
            return super().seconds_left
        if self._opens:
            self._folder.open_gate()
        return self._at_the_gate_s


@pytest.mark.parametrize(
    ("seconds_left", "opens", "cause"),
    [
        (REPORT_S * 0.9, True, "stopped at 60,000 tokens: the time was up"),
        (REPORT_S * 0.4, False, "stopped: the time was up"),
    ],
    ids=["at an evaluation", "without one"],
)
def test_training_slower_than_promised_is_stopped(
    folder: StudyFolder, seconds_left: float, opens: bool, cause: str
) -> None:
    study = load(folder.write(base={"fault": "gate", "fault_budget": 100_000}).file)
    folder.place_hardware()
    options = Options(folder.root / "runs", device="cpu", deadline=UpAtTheGate(folder, seconds_left, opens))
    assert Session(study, options).work() == 4
    stopped, queued = folder.record().trials
    assert stopped.result is not None and stopped.result.cause == cause
    assert (stopped.status, queued.status) == (TrialStatus.INTERRUPTED, TrialStatus.WAITING)
    assert queued.params == stopped.params
