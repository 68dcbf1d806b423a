"""The resident worker: real child processes, their messages, their logs and their deaths."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fake_nvml import FakeNvml

from autotune.core.records import EvalPoint, TrialStatus
from autotune.engine.assignment import Assignment
from autotune.engine.running import Ending, Running
from autotune.engine.worker import Done, Failed, Job, Message, Progress, Slot, Worker, ready
from autotune.machine import gpu_monitor
from autotune.store.run_directory import RunDirectory

Start = Callable[..., Worker]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts workers, and ends them after the test."""
    workers: list[Worker] = []

    def begin(trainer: str, **environment: str) -> Worker:
        workers.append(Worker(Slot("cpu", environment), trainer))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.kill()


def run(worker: Worker, config: dict[str, Any], log: Path, answers: int = 99) -> list[Message | None]:
    """Runs a job to its end, answering "go on" so many times and then "stop"."""
    worker.submit(Job(config, 100, log))
    messages: list[Message | None] = [worker.receive()]
    while isinstance(messages[-1], Progress):
        worker.answer(len(messages) <= answers)
        messages.append(worker.receive())
    return messages


def test_a_training_reports_and_is_done(start: Start, tmp_path: Path) -> None:
    messages = run(start("fake_trainer:train"), {"evaluations": 4, "lr": 0.01}, tmp_path / "log.txt")
    assert [type(message) for message in messages] == [Progress] * 4 + [Done]
    assert [message.point.tokens_seen for message in messages if isinstance(message, Progress)] == [25, 50, 75, 100]
    assert messages[-1] == Done({"data_hash": "fake"})
    assert (tmp_path / "log.txt").read_text() == "training with lr 0.01\n"


def test_an_end_reaches_the_trainer(start: Start, tmp_path: Path) -> None:
    worker = start("fake_trainer:train")
    worker.submit(Job({"evaluations": 5, "obeys": True}, 100, tmp_path / "log.txt"))
    seen = []
    for answer in (70, 50, True):
        message = worker.receive()
        assert isinstance(message, Progress)
        seen.append(message.point.tokens_seen)
        worker.answer(answer)
    assert seen == [20, 40, 50]
    assert worker.receive() == Done({"data_hash": "fake"})


def test_a_stop_reaches_the_trainer_and_the_worker_stays_for_the_next_job(start: Start, tmp_path: Path) -> None:
    worker = start("fake_trainer:train")
    before = worker.pid
    assert run(worker, {}, tmp_path / "log.txt", answers=1)[-1] == Done({"stopped": True})
    messages = run(worker, {}, tmp_path / "log.txt")
    assert messages[-1] == Done({"data_hash": "fake"})
    assert worker.pid == before
    assert (tmp_path / "log.txt").read_text() == "training with lr 0.001\n" * 2


@pytest.mark.parametrize(
    ("error", "out_of_memory"),
    [
        ("RuntimeError", False),
        ("MemoryError", True),
        ("OutOfMemoryError", True),
        # These two mean a lost parent elsewhere, and here a trainer's own trouble with a file.
        ("EOFError", False),
        ("BrokenPipeError", False),
    ],
)
def test_a_trainer_that_raises_has_failed_in_one_line(
    start: Start, tmp_path: Path, error: str, out_of_memory: bool
) -> None:
    messages = run(start("odd_trainers:raises"), {"error": error}, tmp_path / "log.txt")
    assert messages == [
        Progress(EvalPoint(1, 1.0)),
        Failed(out_of_memory, f"{error}: first line second line"),
    ]
    assert "Traceback" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"tokens_seen": 1}, "ValueError: the trainer reported no val_loss; report(...) needs both"),
        ({"val_loss": 1.0}, "ValueError: the trainer reported no tokens_seen; report(...) needs both"),
        ({"tokens_seen": 1, "val_loss": "low"}, "ValueError: could not convert string to float: 'low'"),
        (
            {"tokens_seen": float("nan"), "val_loss": 1},
            "ValueError: the trainer reported tokens_seen = nan; it must be a count, 0 or more",
        ),
    ],
)
def test_a_wrong_report_fails_the_trial_and_not_the_study(
    start: Start, tmp_path: Path, report: dict[str, Any], message: str
) -> None:
    assert run(start("odd_trainers:reports"), report, tmp_path / "log.txt") == [Failed(False, message)]


def test_facts_that_json_does_not_know_become_text(start: Start, tmp_path: Path) -> None:
    [done] = run(start("odd_trainers:returns_oddities"), {}, tmp_path / "log.txt")
    assert isinstance(done, Done)
    assert (done.facts["path"], done.facts["number"]) == ("weights", 3)
    assert done.facts["function"].startswith("<function returns_oddities")


def test_a_config_that_the_trainer_refuses_fails(start: Start, tmp_path: Path) -> None:
    [failed] = run(start("fake_trainer:train"), {"layers": "three"}, tmp_path / "log.txt")
    assert isinstance(failed, Failed)
    assert failed.message.startswith("ValidationError: 1 validation error for FakeConfig layers")


def test_everything_printed_goes_to_the_log_and_nothing_to_the_console(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    assert run(start("odd_trainers:prints"), {}, log)[-1] == Done({})
    assert set(log.read_text().splitlines()) == {"by print", "by stderr", "by write", "by a C library"}
    assert capfd.readouterr() == ("", "")


def test_a_worker_sees_its_own_device(start: Start, tmp_path: Path) -> None:
    workers = [start("odd_trainers:environment", CUDA_VISIBLE_DEVICES=name) for name in ("GPU-a", "GPU-b")]
    for worker in workers:
        worker.submit(Job({}, 100, tmp_path / f"{worker.pid}.txt"))
    heard: list[Worker] = []
    while len(heard) < 2:
        heard += [worker for worker in ready(workers, 60) if worker not in heard]
    seen = [worker.receive() for worker in workers]
    assert [done.facts["device"] for done in seen if isinstance(done, Done)] == ["GPU-a", "GPU-b"]
    assert [done.facts["pid"] for done in seen if isinstance(done, Done)] == [worker.pid for worker in workers]


def test_nobody_is_ready_while_nothing_happens(start: Start) -> None:
    assert ready([start("odd_trainers:environment")], 0) == []


@pytest.mark.parametrize(
    ("trainer", "config", "cause"),
    [
        (
            "odd_trainers:dies",
            {"signal": "SIGKILL"},
            "its worker was killed by SIGKILL (the system may have run out of memory)",
        ),
        ("odd_trainers:dies", {"signal": "SIGSEGV"}, "its worker was killed by SIGSEGV"),
        ("odd_trainers:exits", {}, "its worker ended with exit code 7"),
    ],
)
def test_causes_of_death_in_words(
    start: Start, tmp_path: Path, trainer: str, config: dict[str, Any], cause: str
) -> None:
    worker = start(trainer)
    assert run(worker, config, tmp_path / "log.txt") == [None]
    assert worker.cause_of_death() == cause
    # Whoever speaks to a dead worker hears of it at the next `receive`.
    worker.submit(Job({}, 100, tmp_path / "log.txt"))
    worker.answer(True)
    assert worker.receive() is None


def test_closing_ends_an_idle_worker_and_killing_a_busy_one(start: Start, tmp_path: Path) -> None:
    idle, busy = start("fake_trainer:train"), start("odd_trainers:waits_for_ever")
    run(idle, {}, tmp_path / "idle.txt")
    busy.submit(Job({}, 100, tmp_path / "busy.txt"))
    assert busy.receive() == Progress(EvalPoint(1, 1.0))
    busy.answer(True)
    idle.close()
    busy.kill()
    assert not any(psutil.pid_exists(worker.pid) for worker in (idle, busy))


PARENT = """
import sys
from pathlib import Path
from autotune.engine.worker import Job, Slot, Worker

if __name__ == "__main__":
    worker = Worker(Slot("cpu"), "odd_trainers:waits_for_ever")
    worker.submit(Job({}, 100, Path(sys.argv[1])))
    worker.receive()
    print(worker.pid, flush=True)
    if sys.argv[2] == "busy":
        worker.answer(True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["busy", "waiting for an answer"])
def test_the_child_dies_when_its_parent_is_killed(tmp_path: Path, state: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(tmp_path / "log.txt"), state]
    paths = ":".join(sys.path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": paths}) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        gone, alive = psutil.wait_procs([child], timeout=60)
    assert (gone, alive) == ([child], [])


def test_energy_is_that_of_the_slots_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    monkeypatch.setattr(gpu_monitor, "load", lambda: fake)
    assert Slot("cpu").energy_j() is None
    assert Slot("cuda:0", gpu=1).energy_j() == 5.0 and fake.open_sessions == 0

    # A training's energy is what the counter says more at its end; one that began anew tells nothing.
    told = iter([5.0, 12.5, 12.5, 0.5])
    monkeypatch.setattr(Slot, "energy_j", lambda slot: next(told))
    worker, run = SimpleNamespace(slot=Slot("cuda:0", gpu=1)), RunDirectory(Path("runs/night"))
    assignment = Assignment(None, {}, {}, run.trial("trials", 0), 1_000, 0, 1)  # type: ignore[arg-type]
    used = []
    for _ in range(2):
        running = Running(assignment, worker)  # type: ignore[arg-type]
        used.append(running.result(Ending(TrialStatus.FINISHED), run, {}, False).energy_j)
    assert used == [7.5, None]
