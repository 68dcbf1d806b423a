"""Short trainings of the real trainer before the night: how fast it is on this machine and what it needs."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.core.config_paths import with_paths
from autotune.core.errors import UserError
from autotune.core.files import free_bytes
from autotune.engine.assignment import hardware_overrides
from autotune.engine.deadline import Deadline
from autotune.engine.end_rules import FIRST_EVALUATION_ALLOWANCE
from autotune.engine.event_loop import TICK_S
from autotune.engine.probes import Probe, RunningProbe
from autotune.engine.worker import Done, Failed, Job, Preparing, Progress, Slot, Worker, ready
from autotune.finals.allotment import least_study_s, refuse_trials_of
from autotune.machine.hardware import HardwareProfile
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

_PROBE_FRAC = 1 / 25
"""Share of a trial's budget that a probe trains on a CPU: enough for a steady speed, little enough to cost nothing."""
_PROBE_POINTS = 3
"""Evaluations after which a probe on a GPU ends: a small share would be over before clocks and caches are warm."""
_NO_ROOM_BYTES = 65_536
"""Free disk below which a trainer that fails has most likely failed for lack of it."""
HOPELESS = 3
"""How many times the time that is left the smallest study must take for a night to be refused by a first guess: the
first evaluations of a training are the slowest, and other processes may have held up what was measured."""
PROBE_TOKENS = 4_000_000
"""Most tokens of the trial whose beginning a probe on a GPU is: a long trial's evaluations would cost the night."""


@dataclass(frozen=True)
class Place:
    """Where probes are trained.

    Args:
        study: The study.
        profile: The hardware, which decides device and dtype.
        slot: The device.
        stopped: Whether the user wants it to end.
        preparing: Takes what a trainer says of the preparation of its data.
        deadline: When everything must be done.
        slots: Devices that train at once.
    """

    study: Study
    profile: HardwareProfile
    slot: Slot
    stopped: Callable[[], bool] = lambda: False
    preparing: Callable[[str], None] = lambda words: None
    deadline: Deadline = field(default_factory=Deadline)
    slots: int = 1

    @contextlib.contextmanager
    def worker(self) -> Iterator[Worker]:
        """Start a worker, and end it when the block is left."""
        worker = Worker(self.slot, self.study.spec.trainer)
        try:
            yield worker
        finally:
            worker.kill()


def config_on(study: Study, profile: HardwareProfile, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the baseline's configuration as it runs on some hardware.

    Args:
        study: The study.
        profile: The hardware.
        changes: Settings other than the baseline's, by dotted path.
    """
    overrides = hardware_overrides(study, profile.overrides())
    return with_paths(study.spec.base, {**overrides, **changes})


def probe_length(spec: StudySpec, profile: HardwareProfile) -> tuple[int, int]:
    """Return the token budget of a probe and the evaluations after which it ends, 0 for its whole budget."""
    if profile.device == "cuda":
        return careful_length(spec)
    # Of a budget in epochs at least two, so that two evaluations can tell the pace without the start of the process.
    return min(spec.budget.tokens, max(2, int(spec.budget.tokens * _PROBE_FRAC))), 0


def careful_length(spec: StudySpec) -> tuple[int, int]:
    """Return the length of a probe that a long run is measured by, as `probe_length` does."""
    return min(spec.budget.tokens, PROBE_TOKENS), _PROBE_POINTS


def probe(
    place: Place,
    changes: Mapping[str, Any] | None = None,
    worker: Worker | None = None,
    length: tuple[int, int] | None = None,
) -> Probe:
    """Train the baseline for a small share of its budget; on a GPU to `_PROBE_POINTS` evaluations of a trial.

    Args:
        place: Where to train.
        changes: Settings to probe instead of the baseline's, by dotted path.
        worker: What trains; one of its own if None.
        length: Token budget and the evaluations after which it ends; None for `probe_length`.

    Returns:
        What was measured.

    Raises:
        UserError: If it does not train: then no trial would. With exit code 130 if it was stopped.
    """
    if worker is None:
        with place.worker() as own:
            return probe(place, changes, own, length)

    budget_tokens, last_point = length or probe_length(place.study.spec, place.profile)
    with tempfile.TemporaryDirectory() as folder:
        config = config_on(place.study, place.profile, changes or {})
        job = Job(config, budget_tokens, Path(folder) / "log.txt")
        return _train_briefly(place, worker, job, last_point)


def _train_briefly(place: Place, worker: Worker, job: Job, last_point: int) -> Probe:
    patience_s = FIRST_EVALUATION_ALLOWANCE * place.study.spec.limits.hang_s
    running = RunningProbe(job.budget_tokens, last_point)
    worker.submit(job)

    while time.monotonic() - running.heard < patience_s:
        if place.stopped():
            raise UserError("stopped while probing the baseline; nothing is lost: run again", 130)
        if _is_hopeless(place, running):
            about = "about" if running.has_pace else "more than"
            trial_s = running.seconds_for(place.study.spec.budget.tokens)
            raise refuse_trials_of(place.study.spec, trial_s, place.slots, about)
        if not ready([worker], TICK_S):
            continue
        message = worker.receive()
        if isinstance(message, Preparing):
            running.prepare()
            place.preparing(message.words)
        elif isinstance(message, Progress):
            worker.answer(running.take(message.point))
        elif isinstance(message, Done) and running.has_points:
            return running.result(message.facts)
        else:
            raise _failure(message, worker, job.log)

    why = f"neither an evaluation nor a word of its preparation within {patience_s:.0f} s"
    raise UserError(f"the baseline does not train: {why}; let it evaluate more often, or raise limits.hang_s", 1)


def _is_hopeless(place: Place, running: RunningProbe) -> bool:
    """Return whether the night is over, or far too short for the study at the pace so far."""
    left_s = place.deadline.seconds_left
    if left_s <= 0:
        return True

    trial_s = running.seconds_for(place.study.spec.budget.tokens)
    return running.has_pace and least_study_s(place.study.spec, trial_s, place.slots) > HOPELESS * left_s


def _failure(message: Failed | Done | None, worker: Worker, log: Path) -> UserError:
    """Return the error of a baseline that does not train, with the exit code of its cause."""
    if isinstance(message, Failed) and message.disk_fault:
        return UserError(message.disk_fault, 3)
    if free_bytes(log.parent) < _NO_ROOM_BYTES:
        why = f": {message.message}" if isinstance(message, Failed) else ""
        place = log.parent.parent
        return UserError(f"{place}: no space left on the disk{why}; nothing is lost: free some space and run again", 3)
    if isinstance(message, Failed) and message.exit_code != 1:
        # It says itself what is wrong with the study file, the machine or the network, and what to do.
        return UserError(f"the baseline does not train: {message.message.partition(': ')[2]}", message.exit_code)

    if isinstance(message, Failed):
        why = message.message
    elif isinstance(message, Done):
        why = "the trainer returned without reporting an evaluation"
    else:
        tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
        why = "\n".join([worker.cause_of_death(), *tail])
    return UserError(
        f"the baseline does not train: {why}\nfix this in [base] of the study file, or in the trainer, and run again",
        1,
    )
