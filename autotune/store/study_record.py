"""A study as its stored records tell it, for whoever reads it: a report, a promotion, the command line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import Snapshot, StudyAttributes
from autotune.core.errors import UserError
from autotune.core.files import read_json, read_lines
from autotune.core.peers import Peer, peers_in
from autotune.core.records import TrialRecord, TrialStatus, Verdict
from autotune.machine.hardware import HardwareError, HardwareProfile
from autotune.store.absence import again_if_cut_off
from autotune.store.database import is_shared, named_storage, storage_to_read
from autotune.store.faults import explain_storage_errors
from autotune.store.membership import living_peers
from autotune.store.run_directory import RunDirectory
from autotune.store.stored_spec import in_force, read_spec, require_readable, require_unchanged, stored_name
from autotune.store.study_store import finals_name
from autotune.store.trial_records import own_records
from autotune.study.spec import BudgetSpec, StudySpec

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


class NotBegunError(UserError):
    """A shared database holds no study of that name yet."""


@dataclass(frozen=True)
class StudyRecord:
    """Everything stored about a study, read at one moment.

    Args:
        run: Its run directory.
        spec: The study file's content with the whole base config, and ranges as they are at present.
        trials: The search, in the order of numbers.
        finals: The finals' re-runs.
        other_finals: Re-runs on a class of devices that finals were moved away from: they count for nothing but cost.
        hardware: The hardware profile as JSON; {} before it was taken.
        verdict: None before the finals.
        created_at: ISO 8601.
        events: What happened, oldest first.
        gpu: Samples of the GPU's health, oldest first.
        attributes: What else is stored with the study.
        storage_url: The shared database that it was read from; "" for the file in its folder.
        peers: The processes that work on a study that machines share, the coordinator first.
    """

    run: RunDirectory
    spec: StudySpec
    trials: tuple[TrialRecord, ...]
    finals: tuple[TrialRecord, ...] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    created_at: str = ""
    events: tuple[Mapping[str, Any], ...] = ()
    gpu: tuple[Mapping[str, Any], ...] = ()
    attributes: StudyAttributes = field(default_factory=lambda: StudyAttributes(Snapshot()))
    storage_url: str = field(default="", repr=False)
    peers: tuple[Peer, ...] = ()
    other_finals: tuple[TrialRecord, ...] = ()

    @property
    def name(self) -> str:
        """What the study is called on the command line: its folder's name."""
        return self.run.name

    @property
    def has_trained(self) -> bool:
        """Whether any trial was ever begun: before that there is nothing to report, and nothing to resume."""
        return any(trial.status is not TrialStatus.WAITING for trial in self.trials)

    @property
    def baseline(self) -> TrialRecord | None:
        """The search trial that ran the base config; the last of its attempts."""
        return next((trial for trial in reversed(self.trials) if trial.role == "baseline"), None)


def read_study(root: Path, storage_url: str = "") -> StudyRecord:
    """Read a study's stored records; the study may be running meanwhile.

    Args:
        root: The run directory, `runs/<study>`.
        storage_url: The shared database of a study that has one, as the user names it; by default that of the
            environment. What the folder says of it is somebody's word, and connects to nothing.

    Raises:
        UserError: If there is no study there, or what is there cannot be read.
    """
    run = RunDirectory(root)
    if storage_url and not os.path.lexists(run.spec):
        return _read_from(run, storage_url)

    spec = read_spec(run)
    return _read_from(run, named_storage(run, spec.storage, storage_url), spec)


def _read_from(run: RunDirectory, url: str, spec: StudySpec | None = None) -> StudyRecord:
    """Read a study from its file, or from a shared database, where a connection that is lost meanwhile is made again.

    Args:
        run: Its run directory.
        url: The shared database; "" for the file.
        spec: What the folder says of it; None where that is stored in the database alone, by other machines.
    """

    @again_if_cut_off
    def read() -> StudyRecord:
        with storage_to_read(run, url, *([spec.limits.heartbeat_s] if spec else [])) as storage:
            return replace(_read(run, spec or _stored_spec(run, storage), storage), storage_url=url)

    with explain_storage_errors(run.root):
        return read()


def _stored_spec(run: RunDirectory, storage: RDBStorage) -> StudySpec:
    """Return what a shared database alone says of a study, which other machines have begun.

    Raises:
        NotBegunError: If it has no study of the folder's name.
    """
    import optuna

    attributes = StudyAttributes(Snapshot())
    if run.name in optuna.get_all_study_names(storage):
        attributes = StudyAttributes(optuna.load_study(study_name=run.name, storage=storage)).at_present()
    if attributes.spec is None:
        raise NotBegunError(
            f"the shared database holds no study {run.name}; `autotune run` with its study file begins it"
        )
    require_readable(run.name, attributes)
    return StudySpec.model_validate(attributes.spec)


def _read(run: RunDirectory, spec: StudySpec, storage: RDBStorage) -> StudyRecord:
    spec = spec.model_copy(update={"name": stored_name(storage, spec.name)})
    # Not Optuna's summaries: they copy every trial to find the best one.
    studies = {study.study_name: study for study in storage.get_all_studies()}
    if spec.name not in studies:
        return StudyRecord(run, spec, ())

    stored = studies[spec.name].user_attrs
    attributes = StudyAttributes(Snapshot({**stored, **_moved_full_run(run, stored)}))
    if is_shared(storage):
        require_readable(run.name, attributes)
    require_unchanged(run, spec, attributes)
    all_finals = {
        name: _records(storage, name, spec.budget)
        for name in studies
        if name == finals_name(spec.name) or name.startswith(f"{finals_name(spec.name)}-")
    }
    finals = all_finals.pop(finals_name(spec.name, attributes.judged_on), ())

    return StudyRecord(
        run=run,
        spec=in_force(spec, attributes),
        trials=_records(storage, spec.name, spec.budget),
        finals=finals,
        hardware=_hardware(run),
        verdict=attributes.verdict,
        created_at=attributes.created_at,
        events=read_events(run),
        gpu=tuple(read_lines(run.gpu)),
        attributes=attributes,
        peers=peers_in(stored, living_peers(storage, spec.name)),
        other_finals=tuple(run for runs in all_finals.values() for run in runs),
    )


def _moved_full_run(run: RunDirectory, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored full run with the paths that its files have now: the run directory may have been moved."""
    name = StudyAttributes.full_run.name
    full = stored.get(name)
    if not full or not full.get("folder"):
        return {}

    before = str(full["folder"])
    now = str(run.full / Path(before).name)
    moved = dict(full)
    for path in ("folder", "weights", "export"):
        if str(full.get(path, "")).startswith(before):
            moved[path] = now + str(full[path]).removeprefix(before)
    return {name: moved}


def _hardware(run: RunDirectory) -> Mapping[str, Any]:
    """Return the stored hardware profile, {} where there is none or where it is damaged."""
    for path in run.profiles():
        stored = read_json(path)
        with contextlib.suppress(HardwareError):
            HardwareProfile.from_json(stored)
            return dict(stored)
    return {}


def read_events(run: RunDirectory) -> tuple[Mapping[str, Any], ...]:
    """Return the events of a study's history, oldest first, less those that are damaged.

    Args:
        run: Its run directory; the study need not be stored yet.
    """
    files = [run.events, *run.of_machines(run.events.name)]
    lines = [line for file in files for line in read_lines(file)]
    whole = [line for line in lines if isinstance(line.get("message"), str) and "kind" in line and "time" in line]
    if len(files) > 1:
        whole.sort(key=lambda line: float(line["time"]))
    return tuple(whole)


def _records(storage: RDBStorage, name: str, budget: BudgetSpec) -> tuple[TrialRecord, ...]:
    study_id = storage.get_study_id_from_name(name)
    trials = storage.get_all_trials(study_id, deepcopy=False)

    return tuple(own_records(trials, budget))
