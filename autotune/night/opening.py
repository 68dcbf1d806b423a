"""Opening a study: its storage, the hardware it runs on, and everything that works on it until it is closed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import StudyAttributes
from autotune.core.config_paths import drop_unknown_paths
from autotune.core.errors import UserError
from autotune.core.files import read_json, write_json, write_text
from autotune.core.secrets import holds_password
from autotune.engine.assignment import hardware_overrides
from autotune.engine.deadline import Deadline, StopRequest
from autotune.engine.event_loop import EventLoop
from autotune.engine.failure_streak import FailureStreak
from autotune.engine.session_end import SessionEnd
from autotune.engine.steering import Steering
from autotune.engine.trial_store import TrialStore
from autotune.engine.worker import Slot
from autotune.engine.worker_pool import WorkerPool
from autotune.machine.gpu_monitor import GpuMonitor
from autotune.machine.hardware import HardwareError, HardwareProfile
from autotune.machine.measurement import profile, require_device
from autotune.machine.nvml import visible_devices, visible_gpus
from autotune.night.preparation import expected_data
from autotune.night.replanning import replan_rest
from autotune.progress.mirroring import Mirroring
from autotune.progress.observer import RunObserver
from autotune.search.pruners import build_pruner
from autotune.search.samplers import build_sampler
from autotune.store.backup import back_up
from autotune.store.database import open_storage
from autotune.store.faults import explain_storage_errors
from autotune.store.run_directory import RunDirectory
from autotune.store.stored_spec import as_stored
from autotune.store.study_store import open_study
from autotune.study.spec import StudySpec
from autotune.study.stored_function import carry_along
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage


@dataclass(frozen=True)
class Options:
    """What the command line says about one run.

    Args:
        out: Folder of the run directories.
        device: "auto", "cpu", "cuda" or "cuda:1".
        emulate: "" or "t4".
        say: Takes a line for a person.
        deadline: When everything must be done.
        refresh: Takes the run directory, now and then while the study runs, and writes its report anew; None for none.
        session: When the session ends, which may be before the deadline.
        mirror: What keeps a mirror of the study; None for none.
        again: The options of the commands that go on with it, by the command's name.
    """

    out: Path = Path("runs")
    device: str = "auto"
    emulate: str = ""
    say: Callable[[str], None] = print
    deadline: Deadline = field(default_factory=Deadline)
    refresh: Callable[[Path], None] | None = None
    session: SessionEnd = field(default_factory=SessionEnd)
    mirror: Mirroring | None = None
    again: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredSearch:
    """The search of a study in its storage.

    Args:
        study: The study file and its trainer, under the name that it has in the storage.
        storage: The study's storage.
        optuna_study: The search.
    """

    study: Study
    storage: RDBStorage
    optuna_study: optuna.Study

    @property
    def attributes(self) -> StudyAttributes:
        """What is stored with the search: what the study found out."""
        return StudyAttributes(self.optuna_study)


@dataclass(frozen=True)
class Night:
    """An open study, with everything that works on it.

    Args:
        study: The study file and its trainer.
        options: What the command line says.
        run: The run directory.
        search: The search in its storage.
        profile: The hardware.
        slots: Devices that train at once.
        loop: What trains on them.
    """

    study: Study
    options: Options
    run: RunDirectory
    search: StoredSearch
    profile: HardwareProfile
    slots: Sequence[Slot]
    loop: EventLoop

    @property
    def spec(self) -> StudySpec:
        """What the study file says."""
        return self.study.spec

    @property
    def attributes(self) -> StudyAttributes:
        """What is stored with the search: what the study found out."""
        return self.search.attributes

    @property
    def observer(self) -> RunObserver:
        """What is told of everything that happens."""
        return self.loop.observer

    @property
    def deadline(self) -> Deadline:
        """When everything must be done."""
        return self.options.deadline

    @property
    def is_stopped(self) -> bool:
        """Whether the user wants the run to end."""
        return self.loop.stop.level > 0

    @property
    def overrides(self) -> dict[str, Any]:
        """What the hardware and the plan fill into each config, by dotted path."""
        overrides = hardware_overrides(self.study, self.profile.overrides())
        plan = self.attributes.plan
        if plan is not None and plan.max_pass_sequences:
            chosen = self.study.trainer.by_path({"max_pass_sequences": plan.max_pass_sequences})
            overrides |= drop_unknown_paths(self.spec.base, chosen)
        return overrides | expected_data(self.study, self.attributes)


def open_search(study: Study, run: RunDirectory) -> StoredSearch:
    """Open a study's storage and its search, and keep the study file as it is now.

    Args:
        study: The study file and its trainer.
        run: The run directory.

    Raises:
        UserError: If the storage cannot be used, or holds another study of that name.
    """
    storage = open_storage(run, study.spec.storage, study.spec.limits.heartbeat_s)
    study = as_stored(study, storage)
    spec = study.spec
    seed = _sampler_seed(spec, storage)
    sampler = build_sampler(spec.sampler.name, spec.sampler.options, spec.space, spec.base, seed)
    pruner = build_pruner(spec.pruner.name, spec.pruner.options, spec.budget.tokens)
    optuna_study = open_study(storage, study, sampler, pruner)
    _keep_metric(study, StudyAttributes(optuna_study))

    keep_study(study, run)
    carry_along(run.root, spec.trainer)
    return StoredSearch(study, storage, optuna_study)


def keep_study(study: Study, run: RunDirectory) -> None:
    """Write the study file as it is now into a run directory, which is a study's from then on.

    Args:
        study: The study file and its trainer.
        run: The run directory.
    """
    has_password = holds_password(study.spec.storage)
    write_text(run.study_file, study.text, private=has_password)
    write_json(run.spec, study.spec.model_dump(mode="json"), private=has_password)


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


def _sampler_seed(spec: StudySpec, storage: RDBStorage) -> int:
    """Return a seed that differs between restarts, which would repeat their first draws, and between peers.

    Of a low-discrepancy sequence all have to draw from the same one; the study keeps its place in it.
    """
    import optuna

    if spec.sampler.name == "qmc":
        return spec.seed

    drawn = 0
    if spec.name in optuna.get_all_study_names(storage):
        drawn = len(optuna.load_study(study_name=spec.name, storage=storage).trials)
    peer = os.getpid() if spec.storage else 0
    return (spec.seed * 1_000_003 + drawn * 7919 + peer) % 2**32


@contextlib.contextmanager
def open_night(options: Options, run: RunDirectory, search: StoredSearch, stop: StopRequest) -> Iterator[Night]:
    """Start the workers of an open search; end them, and back the database up, when the block is left.

    Args:
        options: What the command line says.
        run: The run directory.
        search: The search in its storage.
        stop: Whether the user wants the run to end.

    Raises:
        UserError: If the study was begun on another kind of device, or the storage fails meanwhile.
    """
    study = search.study
    spec = study.spec
    if not spec.storage:
        back_up(run)
    hardware = _stored_hardware(spec, options, run, stop)
    monitor = GpuMonitor(hardware.index) if hardware.device == "cuda" else None

    observer = RunObserver(
        run, options.say, monitor, options.refresh, spec.trackers, options.mirror, study.trainer.metric
    )
    slots = slots_of(hardware)

    def replan() -> None:
        replan_rest(night)

    steering = Steering(
        TrialStore(search.optuna_study, search.storage, run, study),
        options.deadline,
        options.session,
        observer.note,
        replan,
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
    night = Night(study, options, run, search, hardware, slots, loop)
    try:
        with explain_storage_errors(run.root):
            yield night
    finally:
        loop.close()
        observer.close()
        if not spec.storage:
            back_up(run)


def _stored_hardware(spec: StudySpec, options: Options, run: RunDirectory, stop: StopRequest) -> HardwareProfile:
    """Return the hardware profile of an earlier run, or take one and store it.

    Args:
        spec: The study.
        options: What the command line says.
        run: The run directory.
        stop: Whether the user wants the run to end.

    Raises:
        UserError: If there is no such device, or the study was begun on another kind of device: its trials would not
            be comparable. With exit code 130 if it was stopped.
    """

    def heed_stop() -> None:
        if stop.level:
            raise UserError("stopped while the hardware was measured; nothing is lost: run again", 130)

    if run.hardware.exists():
        try:
            before = HardwareProfile.from_json(read_json(run.hardware))
        except HardwareError:
            options.say(f"{run.hardware} is damaged or of another version: it is measured and written anew")
        else:
            _require_device(options.device)
            _require_same_device(spec, options, before)
            return before

    options.say("profiling the hardware ...")
    try:
        taken = profile(options.emulate, device=options.device, while_waiting=heed_stop)
    except HardwareError as error:
        raise UserError(str(error), 3) from None
    write_json(run.hardware, taken.to_json())
    return taken


def _require_device(device: str) -> None:
    try:
        require_device(device)
    except HardwareError as error:
        raise UserError(str(error), 3) from None


def _require_same_device(spec: StudySpec, options: Options, before: HardwareProfile) -> None:
    now = "cpu" if options.device == "cpu" or not visible_devices() else "cuda"
    if (before.device, before.emulate) == (now, options.emulate):
        return
    raise UserError(
        f"{spec.name} was begun on {_device_words(before.device, before.emulate)} and this is "
        f"{_device_words(now, options.emulate)}: their results and times are not comparable; "
        'use the same device, or give the study another name (--set name="...")'
    )


def _device_words(device: str, emulate: str) -> str:
    return f"{device} emulating {emulate}" if emulate else device


def slots_of(hardware: HardwareProfile) -> list[Slot]:
    """Return a slot per visible GPU of the profiled kind, or one for the CPU.

    Args:
        hardware: The profile of the device to use.
    """
    if hardware.device == "cpu":
        return [Slot("cpu", {"CUDA_VISIBLE_DEVICES": ""})]

    gpus = visible_gpus()
    same = [gpu for gpu in gpus if gpu.name == hardware.name] or gpus
    return [Slot(f"cuda:{position}", {"CUDA_VISIBLE_DEVICES": gpu.uuid}) for position, gpu in enumerate(same)]
