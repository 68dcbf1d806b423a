"""The Optuna study behind a study: opening it, or refusing to; writing results and reading records.

Optuna's storage holds everything that a report needs: a trial's result is stored with the trial before
Optuna is told, so that a kill at any moment leaves either a result to finish telling or a trial to repeat.
The files in `trials/` are copies of it for people and other programs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core import objectives
from autotune.core.attributes import PRIOR, Snapshot, StudyAttributes, TrialAttributes
from autotune.core.changes import changed_places
from autotune.core.errors import UserError
from autotune.core.files import now_iso, read_json, read_lines, write_json
from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.own_words import told
from autotune.core.peers import Peer, peers_in
from autotune.core.records import TrialRecord, TrialResult, TrialStatus, Verdict
from autotune.machine.hardware import HardwareError, HardwareProfile
from autotune.store.absence import again_if_cut_off
from autotune.store.database import exclusive, is_shared, named_storage, storage_to_read
from autotune.store.faults import explain_storage_errors
from autotune.store.membership import living_peers
from autotune.store.run_directory import RunDirectory
from autotune.store.stored_spec import changed, completed, in_force, read_spec, require_unchanged, stored_name
from autotune.study.spec import BudgetSpec, StudySpec
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage, RDBStorage


def finals_name(study_name: str, device_class: str = "") -> str:
    """Return the name of the Optuna study that holds the finals of a study.

    Args:
        study_name: The study's name.
        device_class: Of devices that they were moved to; "" for those that the study was begun on.
    """
    suffix = f"-{class_hash(device_class)}" if device_class else ""
    return f"{study_name}.finals{suffix}"


def class_hash(device_class: str) -> str:
    """Return a short name of a class of devices for names of studies and files, 8 hexadecimal digits."""
    return hashlib.sha256(device_class.encode()).hexdigest()[:8]


def long_name(study_name: str, kind: str, arm: int, tokens: int) -> str:
    """Return the name of the Optuna study that holds a full run, or a bracket, and its interrupted attempts.

    Args:
        study_name: The study's name.
        kind: "full" or "bracket".
        arm: Search trial whose settings are trained.
        tokens: Length of each training.
    """
    return f"{study_name}.{kind}-{arm}-{tokens}"


@again_if_cut_off
def open_study(
    storage: RDBStorage,
    study: Study,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Open or create the Optuna study, and refuse when the study file has changed since.

    As long as nothing was ever evaluated there is nothing to compare, and a changed study begins anew: what did not
    train may be mended in its file. Not in a shared storage, where a peer may be at its first training.

    Raises:
        UserError: Naming each setting that changed, and the ways out.
    """
    import optuna

    spec = study.spec
    with exclusive(storage, spec.name):
        _require_unchanged(storage, study)
        optuna_study = optuna.create_study(
            study_name=spec.name,
            storage=_cached(storage),
            sampler=sampler,
            pruner=pruner,
            directions=["minimize"] * objectives.num_values(spec.objective),
            load_if_exists=True,
        )
        attributes = StudyAttributes(optuna_study)

        if attributes.spec is None:
            attributes.created_at = now_iso()
        attributes.spec = spec.to_store()
        attributes.length_rules = dict(study.trainer.length_rules)

    return optuna_study


def _require_unchanged(storage: RDBStorage, study: Study) -> None:
    """Raise UserError if the study file has changed since the study began; forget a study that never trained."""
    import optuna

    spec = study.spec
    names = optuna.get_all_study_names(storage)
    if spec.name not in names:
        return

    stored = StudyAttributes(optuna.load_study(study_name=spec.name, storage=storage)).spec
    if stored is None:
        return
    before = completed(stored, study)
    if before.fingerprint() == spec.fingerprint():
        return

    own = [name for name in names if name == spec.name or name.startswith(f"{spec.name}.")]
    if spec.storage or any(_has_evaluated(storage, name) for name in own):
        raise UserError(changed(before, spec))
    for name in own:
        optuna.delete_study(study_name=name, storage=storage)


def _has_evaluated(storage: RDBStorage, name: str) -> bool:
    """Return whether a training of an Optuna study has ever reported a loss."""
    study_id = storage.get_study_id_from_name(name)
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        attributes = TrialAttributes(trial)
        points = attributes.result.points if attributes.result else ()
        if attributes.role != PRIOR and (trial.intermediate_values or attributes.curve or points):
            return True
    return False


def open_fixed(storage: RDBStorage, name: str) -> optuna.Study:
    """Open or create an Optuna study whose trials are queued beforehand: the finals or a full run."""
    import optuna

    return optuna.create_study(
        study_name=name,
        storage=_cached(storage),
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.NopPruner(),
        direction="minimize",
        load_if_exists=True,
    )


def _cached(storage: RDBStorage) -> BaseStorage:
    """Return what keeps trials in memory as far as they do not change; Optuna's own cache for a file of our own."""
    from optuna.storages import get_storage

    if not is_shared(storage):
        return get_storage(storage)

    from autotune.store.postgresql import SharedStorage
    from autotune.store.shared_trials import ChangedTrials

    assert isinstance(storage, SharedStorage)
    return ChangedTrials(storage)


def write_result(result: TrialResult, folder: Path, metric: Metric = TEXT_LOSS) -> None:
    """Write a result, in the words of its metric, as a file."""
    write_json(folder / "result.json", told(result.to_json(), metric))


# --- reading ---------------------------------------------------------------------------------------------


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

    stored = None
    if run.name in optuna.get_all_study_names(storage):
        stored = StudyAttributes(optuna.load_study(study_name=run.name, storage=storage)).spec
    if stored is None:
        raise NotBegunError(
            f"the shared database holds no study {run.name}; `autotune run` with its study file begins it"
        )
    return StudySpec.model_validate(stored)


def _read(run: RunDirectory, spec: StudySpec, storage: RDBStorage) -> StudyRecord:
    spec = spec.model_copy(update={"name": stored_name(storage, spec.name)})
    # Not Optuna's summaries: they copy every trial to find the best one.
    studies = {study.study_name: study for study in storage.get_all_studies()}
    if spec.name not in studies:
        return StudyRecord(run, spec, ())

    stored = studies[spec.name].user_attrs
    attributes = StudyAttributes(Snapshot({**stored, **_moved_full_run(run, stored)}))
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


def own_records(trials: Sequence[optuna.trial.FrozenTrial], budget: BudgetSpec) -> list[TrialRecord]:
    """Return our records of a study's own Optuna trials, by number.

    Args:
        trials: All trials of an Optuna study.
        budget: The budget of the search that they belong to.
    """
    return KnownRecords(budget).own(trials)


class KnownRecords:
    """Our records of an Optuna study's trials, of which only those are made anew that have changed.

    Args:
        budget: The budget of the search that they belong to.
    """

    def __init__(self, budget: BudgetSpec) -> None:
        self._budget = budget
        self._trials: list[optuna.trial.FrozenTrial] = []
        self._records: list[TrialRecord | None] = []

    def own(self, trials: Sequence[optuna.trial.FrozenTrial]) -> list[TrialRecord]:
        """Return our records of a study's own Optuna trials, by number.

        Args:
            trials: All trials of the Optuna study; whichever has changed is another object.
        """
        changed = changed_places(self._trials, trials)
        self._trials = list(trials)
        self._records = [*self._records[: len(trials)], *[None] * (len(trials) - len(self._records))]
        for place in changed:
            self._records[place] = self._own_record(trials[place])

        return [record for record in self._records if record is not None]

    def _own_record(self, trial: optuna.trial.FrozenTrial) -> TrialRecord | None:
        attributes = TrialAttributes(trial)
        is_own = not attributes.passed_over and attributes.role != PRIOR
        return record_of(trial, self._budget) if is_own else None


def record_of(trial: optuna.trial.FrozenTrial, budget: BudgetSpec) -> TrialRecord:
    """Return our record of an Optuna trial.

    Args:
        trial: A trial of the search, of the finals or of longer runs.
        budget: The budget of the search that it belongs to.
    """
    from optuna.trial import TrialState

    attributes = TrialAttributes(trial)
    result = attributes.result

    unfinished = {TrialState.WAITING: TrialStatus.WAITING, TrialState.RUNNING: TrialStatus.RUNNING}
    ended = TrialStatus.INTERRUPTED if result is None else result.status
    history = trial.system_attrs.get("retry_history") or [None]

    # A trial that waits has no parameters in Optuna yet, and one of the finals never gets any.
    params = trial.params or attributes.params or trial.system_attrs.get("fixed_params", {})

    # A trial of the search that trains several seeds reports their final losses, under their count.
    has_seeds = budget.seeds > 1 and attributes.arm is None
    reported = trial.intermediate_values or attributes.curve
    values: dict[int, float] = {}
    seed_losses: list[float] = []
    if has_seeds:
        seed_losses = [loss for _, loss in sorted(reported.items())]
    else:
        values = _by_own_tokens(reported, attributes.budget_tokens, budget.tokens)

    return TrialRecord(
        number=trial.number,
        params=dict(params),
        status=unfinished.get(trial.state, ended),
        result=result,
        role=attributes.role,
        seed=attributes.seed,
        arm=attributes.arm,
        values=values,
        seed_losses=tuple(seed_losses),
        retry_of=history[-1],
        stage=attributes.stage,
        audited_at=attributes.audited_at,
        stopped_at=attributes.stopped_at,
        budget_tokens=attributes.budget_tokens,
        taken_from=attributes.taken_from,
        peer=attributes.peer,
        needs_bytes=attributes.needs_bytes,
    )


def _by_own_tokens(reported: Mapping[int, float], budget_tokens: int | None, baseline_tokens: int) -> dict[int, float]:
    """Return losses by a trial's own tokens from what it reported, which is by the baseline's at the same share."""
    if budget_tokens is None:
        return dict(reported)

    scale = budget_tokens / baseline_tokens
    return {round(tokens * scale): loss for tokens, loss in reported.items()}
