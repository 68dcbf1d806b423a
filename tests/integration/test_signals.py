"""Ctrl-C, `autotune stop`, a service manager's SIGTERM and a closed terminal: the run parks and can go on."""

from __future__ import annotations

import os
import pty
import signal
from typing import Any

import pytest
from study_folder import Run, StudyFolder, wait_for

from autotune.core.records import TrialStatus

PARKED = 130


@pytest.fixture
def busy(folder: StudyFolder) -> StudyFolder:
    """A study whose trainings stand at a gate."""
    return folder.write(budget={"trials": 4}, base={"fault": "gate", "fault_budget": 100_000})


def _running(folder: StudyFolder, **more: Any) -> Run:
    run = folder.start(**more)
    folder.wait_at_gate()
    return run


def _assert_parked(folder: StudyFolder, run: Run, cause: str) -> None:
    assert run.end() == PARKED, run.text
    assert "parked, nothing is lost; resume with: autotune run " in run.text
    assert "Traceback" not in run.text
    folder.wait_until_empty()
    *_, stopped, queued = folder.record().trials
    assert stopped.status is TrialStatus.INTERRUPTED and stopped.result is not None
    assert cause in stopped.result.cause
    assert (queued.status, queued.params) == (TrialStatus.WAITING, stopped.params)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_parks(busy: StudyFolder, name: signal.Signals) -> None:
    run = _running(busy)
    run.signal(name)
    busy.open_gate()
    _assert_parked(busy, run, " tokens by the user")
    assert "stopping after the next evaluation" in run.text


def test_signal_to_the_whole_group_parks(busy: StudyFolder) -> None:
    """Ctrl-C reaches the workers as well, and a service manager ends every process of a service."""
    run = _running(busy)
    os.killpg(run.process.pid, signal.SIGTERM)
    busy.open_gate()
    _assert_parked(busy, run, " tokens by the user")


def test_second_signal_stops_at_once(busy: StudyFolder) -> None:
    """While the gate stays closed, so that no evaluation can end the trial."""
    run = _running(busy)
    run.signal(signal.SIGINT)
    assert run.says("press Ctrl-C again to stop at once")
    assert run.process.poll() is None
    run.signal(signal.SIGINT)
    _assert_parked(busy, run, "stopped at once by the user")


def test_sigterm_ends_a_training_whose_evaluation_does_not_come(busy: StudyFolder) -> None:
    """A scheduler kills what is still there after a while, and the gate stays closed."""
    busy.write(budget={"trials": 4}, base={"fault": "gate", "fault_budget": 100_000}, limits={"grace_s": 0.5})
    run = _running(busy)
    run.signal(signal.SIGTERM)
    _assert_parked(busy, run, "stopped at once by the user")
    assert "if none comes within 0.5 s, at once" in run.text


def test_stop_now_command(busy: StudyFolder) -> None:
    run = _running(busy)
    assert busy.run("stop", "--now").end() == 0
    _assert_parked(busy, run, "stopped at once by the user")


def test_stopped_while_the_baseline_is_probed(folder: StudyFolder) -> None:
    run = folder.write(base={"fault": "hang"}).start()
    wait_for((folder.log / "started.txt").exists)
    run.signal(signal.SIGINT)
    assert run.end() == PARKED, run.text
    assert "nothing is lost: run again" in run.text and "Traceback" not in run.text
    folder.wait_until_empty()


def test_parked_study_completes(busy: StudyFolder) -> None:
    run = _running(busy)
    run.signal(signal.SIGINT)
    busy.open_gate()
    _assert_parked(busy, run, " tokens by the user")
    command = run.text.split("resume with: ")[1].splitlines()[0]
    assert command == "autotune run fake"
    again = busy.run()
    assert again.end() == 0, again.text
    record = busy.record()
    assert sum(trial.status is not TrialStatus.INTERRUPTED for trial in record.trials) == 4
    assert record.verdict is not None


def test_parked_again_and_again_a_trial_is_still_repeated(busy: StudyFolder) -> None:
    """Only what kills its worker is given up; limits.retries is not about the user."""
    busy.write(budget={"trials": 1}, base={"fault": "gate", "fault_budget": 100_000}, limits={"retries": 0})
    for _ in range(2):
        run = _running(busy)
        run.signal(signal.SIGINT)
        busy.open_gate()
        assert run.end() == PARKED, run.text
        busy.close_gate()
    busy.open_gate()
    busy.run()
    statuses = [trial.status for trial in busy.record().trials]
    assert statuses == [TrialStatus.INTERRUPTED, TrialStatus.INTERRUPTED, TrialStatus.FINISHED]


def test_stop_command(busy: StudyFolder) -> None:
    run = _running(busy)
    stop = busy.run("stop")
    busy.open_gate()
    assert stop.end() == 0 and f"asked PID {run.process.pid} to park" in stop.text
    _assert_parked(busy, run, " tokens by the user")
    again = busy.run("stop")
    assert again.end() == 2 and "is not running" in again.text


def test_closed_terminal_parks(busy: StudyFolder) -> None:
    """The kernel hangs up, and every write to the terminal fails from then on."""
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "rb") as theirs:
        run = _running(busy, stdin=theirs, stdout=theirs, stderr=theirs, before=_take_terminal)
    os.close(controller)
    busy.open_gate()
    assert run.end() == PARKED
    assert busy.record().events[-1]["kind"] == "parked"
    busy.wait_until_empty()


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_nohup_outlives_its_terminal(busy: StudyFolder) -> None:
    run = _running(busy, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    run.signal(signal.SIGHUP)
    busy.open_gate()
    assert run.end() == 0, run.text


def test_reader_of_a_pipe_may_leave(folder: StudyFolder) -> None:
    """As in `autotune run study.toml | head -1`."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as theirs:
        run = folder.write(budget={"trials": 2}).start(stdout=theirs)
    os.close(reading)
    assert run.end() == 0, run.text
    assert folder.record().verdict is not None
