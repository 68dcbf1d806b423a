"""Opening a study: its storage, the hardware it runs on, and everything that works on it until it is closed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from autotune.core.attributes import StudyAttributes
from autotune.core.errors import UserError
from autotune.core.files import now_iso, write_json, write_text
from autotune.core.peers import Peer
from autotune.core.requests import study_stops
from autotune.core.secrets import to_be_stored
from autotune.engine.deadline import StopRequest
from autotune.engine.event_loop import EventLoop
from autotune.engine.failure_streak import FailureStreak
from autotune.engine.steering import Steering
from autotune.engine.trial_store import TrialStore
from autotune.engine.worker import Slot
from autotune.engine.worker_pool import WorkerPool
from autotune.machine.gpu_monitor import GpuMonitor
from autotune.machine.hardware import HardwareProfile
from autotune.machine.nvml import visible_gpus
from autotune.night.agreement import keep_end
from autotune.night.night import Night, Options, StoredSearch
from autotune.night.replanning import replan_rest
from autotune.progress.observer import RunObserver
from autotune.search.pruners import build_pruner
from autotune.search.samplers import build_sampler
from autotune.store.absence import Patience, patient
from autotune.store.backup import back_up
from autotune.store.database import is_shared, open_storage
from autotune.store.faults import explain_storage_errors
from autotune.store.membership import Membership, SharedMembership
from autotune.store.run_directory import RunDirectory
from autotune.store.stored_spec import as_stored
from autotune.store.study_store import open_study
from autotune.study.spec import StudySpec
from autotune.study.stored_function import carry_along
from autotune.study.study_file import Study

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


@contextlib.contextmanager
def open_search(study: Study, run: RunDirectory, stop: StopRequest, is_worker: bool = False) -> Iterator[StoredSearch]:
    """Open a study's storage and its search, and take a place among the processes that work on it.

    Args:
        study: The study file and its trainer.
        run: The run directory.
        stop: Told when another process has taken over the coordination.
        is_worker: Whether this process never coordinates.

    Raises:
        UserError: If the storage cannot be used, or holds another study of that name.
    """
    heartbeat_s = study.spec.limits.heartbeat_s
    storage = open_storage(run, study.spec.storage, heartbeat_s)
    study = as_stored(study, storage)
    membership = Membership()
    if is_shared(storage):
        membership = SharedMembership(storage, study.spec.name, heartbeat_s, not is_worker, stop.step_down)

    try:
        yield _open_search(study, storage, membership)
    finally:
        membership.leave()


def _open_search(study: Study, storage: RDBStorage, membership: Membership) -> StoredSearch:
    spec = study.spec
    seed = _sampler_seed(spec, storage, membership.id)
    sampler = build_sampler(spec.sampler.name, spec.sampler.options, spec.space, spec.base, seed)
    pruner = build_pruner(spec.pruner.name, spec.pruner.options, spec.budget.tokens)
    optuna_study = open_study(storage, study, sampler, pruner)

    attributes = StudyAttributes(optuna_study)
    _keep_metric(study, attributes)
    return StoredSearch(study, storage, optuna_study, membership, frozenset(study_stops(attributes.requests)))


def this_peer(membership: Membership, is_worker: bool, device: str = "", memory_bytes: int = 0) -> Peer:
    """Return what is told of this process where several share the study.

    Args:
        membership: Its place among them.
        is_worker: Whether it never coordinates.
        device: Name of what it trains on.
        memory_bytes: What a training may use there.
    """
    host = socket.gethostname()
    return Peer(membership.id, host, device, now_iso(), is_worker, "preparing", memory_bytes=memory_bytes)


def keep_study(study: Study, run: RunDirectory) -> None:
    """Write the study file as it is now into a run directory, which is a study's from then on.

    Args:
        study: The study file and its trainer.
        run: The run directory.
    """
    write_text(run.study_file, to_be_stored(study.text, study.spec.storage))
    write_json(run.spec, study.spec.to_store())
    carry_along(run.root, study.spec.trainer)


def _keep_metric(study: Study, attributes: StudyAttributes) -> None:
    """Store what the trainer reports, for reports that never import it.

    Raises:
        UserError: If it reported something else when the study was begun.
    """
    before, now = attributes.metric, study.trainer.metric
    if attributes.plan is not None and before.describe() != now.describe():
        raise UserError(
            f"{study.trainer.name} now reports {now.describe()}, and study {study.spec.name} was begun with "
            f"{before.describe()}: its trials cannot be compared with new ones; give the study another name"
        )
    if before != now:
        attributes.metric = now


def _sampler_seed(spec: StudySpec, storage: RDBStorage, peer: str) -> int:
    """Return a seed that differs between restarts, which would repeat their first draws, and between peers.

    Process numbers do not tell peers apart: in a container each of them may be 1.

    Of a low-discrepancy sequence all have to draw from the same one; the study keeps its place in it.
    """
    import optuna

    if spec.sampler.name == "qmc":
        return spec.seed

    drawn = 0
    if spec.name in optuna.get_all_study_names(storage):
        drawn = len(optuna.load_study(study_name=spec.name, storage=storage).trials)
    return (spec.seed * 1_000_003 + drawn * 7919 + int(peer or "0", 16)) % 2**32


@contextlib.contextmanager
def open_night(
    options: Options,
    run: RunDirectory,
    search: StoredSearch,
    peer: Peer,
    hardware: HardwareProfile,
    stop: StopRequest,
) -> Iterator[Night]:
    """Start the workers of an open search; end them, and back the database up, when the block is left.

    Args:
        options: What the command line says.
        run: The run directory.
        search: The search in its storage.
        peer: What is told of this process where several share the study.
        hardware: The profile of its machine.
        stop: Whether the user wants the run to end.

    Raises:
        UserError: If the storage fails meanwhile.
    """
    study = search.study
    spec = study.spec
    if not spec.storage:
        back_up(run)
    monitor = GpuMonitor(hardware.index) if hardware.device == "cuda" else None

    observer = RunObserver(
        run, options.say, monitor, options.refresh, spec.trackers, options.mirror, study.trainer.metric
    )
    slots = slots_of(hardware)

    def replan() -> None:
        if search.membership.is_coordinator:
            keep_end(search, options.deadline)
            replan_rest(night)

    steering = Steering(
        TrialStore(search.optuna_study, search.storage, run, study),
        options.deadline,
        options.session,
        observer.note,
        replan,
        stop,
        search.stops_before,
    )
    loop = EventLoop(
        pool=WorkerPool(slots, spec.trainer),
        run_directory=run,
        limits=spec.limits,
        stop=stop,
        deadline=options.deadline,
        observer=observer,
        failures=FailureStreak(spec.limits.crashes),
        session=options.session,
        steering=steering,
    )
    night = Night(study, options, run, search, hardware, slots, loop, peer)
    night.tell("waiting")
    try:
        with explain_storage_errors(run.root), patient(patience_of(options, stop, observer.note)):
            yield night
    finally:
        loop.close()
        observer.close()
        if not spec.storage:
            back_up(run)


def patience_of(options: Options, stop: StopRequest, note: Callable[[str, str], None]) -> Patience:
    """Return how a run waits for a shared database that goes away: until it is stopped or has to end anyway.

    Args:
        options: What the command line says.
        stop: Whether the user wants the run to end.
        note: Takes the kind of something noteworthy and a sentence about it.
    """

    def seconds_left() -> float:
        return min(options.deadline.seconds_left, options.session.seconds_left)

    return Patience(note, lambda: stop.level > 0, seconds_left)


def slots_of(hardware: HardwareProfile) -> list[Slot]:
    """Return a slot per visible GPU of the profiled kind, or one for the CPU.

    Args:
        hardware: The profile of the device to use.
    """
    if hardware.device == "cpu":
        return [Slot("cpu", {"CUDA_VISIBLE_DEVICES": ""})]

    gpus = visible_gpus()
    same = [gpu for gpu in gpus if gpu.name == hardware.name] or gpus
    return [
        Slot(f"cuda:{position}", {"CUDA_VISIBLE_DEVICES": gpu.uuid}, gpu.index) for position, gpu in enumerate(same)
    ]
