"""`autotune submit` on a real Slurm and a real Ray, where they are installed; the study is in a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm
from study_folder import HERE, PATIENCE_S, StudyFolder, wait_for

from autotune.core.records import TrialStatus


@pytest.fixture(scope="module")
def slurm_conf() -> Iterator[Path]:
    """The configuration of a running Slurm."""
    yield from slurm.served()


@pytest.fixture
def shared(empty_database: StudyFolder) -> StudyFolder:
    """A study in an empty database of its own, whose only training stands at a gate once."""
    empty_database.place_hardware()
    return empty_database.write(
        storage=empty_database.url,
        budget={"trials": 1},
        base={"fault": "gate", "fault_budget": 100_000, "strikes": 1},
        finals={"finalists": 0},
        limits={"heartbeat_s": 1, "min_free_bytes": 0, "grace_s": 0.5},
    )


def _assert_parked_once_and_done(folder: StudyFolder) -> None:
    statuses = [trial.status for trial in folder.record().trials]
    assert statuses == [TrialStatus.INTERRUPTED, TrialStatus.FINISHED]
    folder.wait_until_empty()


def test_a_slurm_job_parks_before_its_limit_and_goes_on_at_its_next_turn(
    shared: StudyFolder, slurm_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM is sent to the job's script as Slurm does it before the time limit, which is a minute at the least."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    submitted = shared.command("submit", "fake.toml", "--slurm", "--gpus", "0", "--", "--device", "cpu")
    assert submitted.end() == 0 and "Submitted batch job 1" in submitted.text, submitted.text
    shared.wait_at_gate()
    subprocess.run(["scancel", "--batch", "--signal=TERM", "1_0"], check=True)

    def log() -> str:
        return "".join(path.read_text() for path in shared.root.glob("fake-*-0.log"))

    wait_for(lambda: "verdict: " in log() and not _queue())
    assert "stopped at once by the user" in log()
    _assert_parked_once_and_done(shared)


def test_what_a_person_cancels_is_not_begun_again(
    shared: StudyFolder, slurm_conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    submitted = shared.command("submit", "fake.toml", "--slurm", "--gpus", "0", "--", "--device", "cpu")
    assert submitted.end() == 0, submitted.text
    shared.wait_at_gate()
    subprocess.run(["scancel", submitted.text.split()[-1]], check=True)
    wait_for(lambda: not _queue())
    shared.wait_until_empty()
    assert [trial.status for trial in shared.record().trials] == [TrialStatus.INTERRUPTED, TrialStatus.WAITING]


def _queue() -> str:
    return subprocess.run(["squeue", "--noheader"], check=True, capture_output=True, text=True).stdout


def test_a_ray_task_parks_with_its_job(shared: StudyFolder) -> None:
    """The job's own program, as `ray job submit` starts it: it makes a Ray of this machine where there is none."""
    pytest.importorskip("ray", reason="needs Ray, which the dev extra brings on Linux")
    command = [sys.executable, "-m", "autotune.launchers.ray_job", "1", "0", "fake.toml", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE.parent / "fakes")])}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=shared.root, env=environment, start_new_session=True)

    with start() as job:
        shared.wait_at_gate()
        job.send_signal(signal.SIGTERM)
        assert job.wait(PATIENCE_S) == 130
    with start() as job:
        assert job.wait(PATIENCE_S) == 0
    _assert_parked_once_and_done(shared)


@pytest.mark.parametrize(("option", "command"), [("--slurm", "sbatch"), ("--ray", "ray")])
def test_a_missing_scheduler_is_a_sentence(
    shared: StudyFolder, monkeypatch: pytest.MonkeyPatch, option: str, command: str
) -> None:
    monkeypatch.setenv("PATH", str(shared.root))
    refused = shared.command("submit", "fake.toml", option)
    assert refused.end() == 3
    assert f"there is no command {command} here" in refused.text and "Traceback" not in refused.text
