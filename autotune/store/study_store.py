"""The Optuna study behind a study: opening, refusing, writing results and reading records.

Optuna's storage holds everything that a report needs: a trial's result is stored with the trial before
Optuna is told, so that a kill at any moment leaves either a result to finish telling or a trial to repeat.
The files in `trials/` are twins of it for people and other programs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autotune.core import objectives
from autotune.core.attributes import AUDITED_AT, BUDGET_TOKENS, CURVE, PRIOR, RANGES, STOPPED_AT
from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.files import now_iso, read_json, read_lines, write_json
from autotune.core.records import TrialRecord, TrialResult, TrialStatus, Verdict
from autotune.store.database import exclusive, open_storage
from autotune.store.run_directory import RunDirectory
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage


def finals_name(study_name: str) -> str:
    """Returns the name of the Optuna study that holds the finals of a study."""
    return f"{study_name}.finals"


def long_name(study_name: str, kind: str, arm: int, tokens: int) -> str:
    """Returns the name of the Optuna study that holds a full run, or a bracket, and its interrupted attempts.

    Args:
        study_name: The study's name.
        kind: "full" or "bracket".
        arm: Search trial whose settings are trained.
        tokens: Length of each training.
    """
    return f"{study_name}.{kind}-{arm}-{tokens}"


def open_study(
    storage: RDBStorage,
    study: Study,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> optuna.Study:
    """Opens or creates the Optuna study, and refuses when the study file has changed since.

    Raises:
        UserError: Naming each setting that changed, and the ways out.
    """
    import optuna

    spec = study.spec
    with exclusive(storage, spec.name):
        found = optuna.create_study(
            study_name=spec.name,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=["minimize"] * objectives.num_values(spec.objective),
            load_if_exists=True,
        )
        stored = found.user_attrs.get("spec")
        if stored is None:
            found.set_user_attr("created_at", now_iso())
        elif (before := _completed(stored, study)).fingerprint() != spec.fingerprint():
            raise UserError(_changed(before, spec))
        found.set_user_attr("spec", spec.model_dump(mode="json"))
    return found


def _completed(stored: Mapping[str, Any], study: Study) -> StudySpec:
    """Returns a stored spec with the defaults of what its trainer, or the engine, has been given since."""
    spec = StudySpec.model_validate(stored)
    with contextlib.suppress(ValidationError):
        return spec.model_copy(update={"base": study.trainer.complete(spec.base)})
    return spec


def _changed(before: StudySpec, after: StudySpec) -> str:
    old, new = flatten(before.semantics()), flatten(after.semantics())
    lines = [
        f"  {path}: was {old.get(path, 'absent')!r}, is {new.get(path, 'absent')!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    return (
        f"{after.name} was begun with other settings, and its trials would not be comparable:\n"
        + "\n".join(lines)
        + '\nput them back, or give the study another name (--set name="...") or another folder (--out)'
    )


def open_fixed(storage: RDBStorage, name: str) -> optuna.Study:
    """Opens or creates an Optuna study whose trials are queued beforehand: the finals or a full run."""
    import optuna

    return optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.NopPruner(),
        direction="minimize",
        load_if_exists=True,
    )


def save_result(trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
    """Stores a result with its trial and as a file; Optuna is told afterwards."""
    write_json(folder / "result.json", result.to_json())
    trial.set_user_attr("result", result.to_json())


# --- reading ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyRecord:
    """Everything stored about a study, read at one moment.

    Args:
        run: Its run directory.
        spec: The study file's content with the whole base config, and ranges as they are at present.
        trials: The search, in the order of numbers.
        finals: The finals' re-runs.
        hardware: The hardware profile as JSON; {} before it was taken.
        verdict: None before the finals.
        created_at: ISO 8601.
        events: What happened, oldest first.
        gpu: Samples of the GPU's health, oldest first.
        attributes: Further values stored with the study (plan, provenance, full run, ...).
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
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> TrialRecord | None:
        """The search trial that ran the base config; the last of its attempts."""
        return next((trial for trial in reversed(self.trials) if trial.role == "baseline"), None)


def read_study(root: Path) -> StudyRecord:
    """Reads a study's stored records; it may be running meanwhile.

    Args:
        root: The run directory, `runs/<study>`.

    Raises:
        UserError: If there is no study there.
    """
    run = RunDirectory(root)
    spec_file = read_json(run.spec)
    if spec_file is None:
        known = sorted(path.parent.name for path in root.parent.glob("*/spec.json"))
        hint = f"; there is {', '.join(known)}" if known else "; `autotune run studies/...` makes one"
        raise UserError(f"no study at {root}{hint}")
    spec = StudySpec.model_validate(spec_file)
    storage = open_storage(run, spec.storage, spec.limits.heartbeat_s)
    try:
        return _read(run, spec, storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _read(run: RunDirectory, spec: StudySpec, storage: RDBStorage) -> StudyRecord:
    import optuna

    summaries = {study.study_name: study for study in optuna.get_all_study_summaries(storage)}
    if spec.name not in summaries:
        return StudyRecord(run, spec, ())
    attributes = dict(summaries[spec.name].user_attrs)
    attributes.pop("spec", None)
    verdict = attributes.pop("verdict", None)
    return StudyRecord(
        run=run,
        spec=spec.model_copy(update={"space": spec.space.with_ranges(attributes.get(RANGES, {}))}),
        trials=_records(storage, spec.name),
        finals=_records(storage, finals_name(spec.name)) if finals_name(spec.name) in summaries else (),
        hardware=read_json(run.hardware) or {},
        verdict=None if verdict is None else Verdict.from_json(verdict),
        created_at=str(attributes.pop("created_at", "")),
        events=tuple(read_lines(run.events)),
        gpu=tuple(read_lines(run.gpu)),
        attributes=attributes,
    )


def _records(storage: RDBStorage, name: str) -> tuple[TrialRecord, ...]:
    study_id = storage.get_study_id_from_name(name)
    return tuple(own_records(storage.get_all_trials(study_id, deepcopy=False)))


def own_records(trials: Sequence[optuna.trial.FrozenTrial]) -> list[TrialRecord]:
    """Returns our records of a study's own Optuna trials, by number."""
    return [record for record in map(record_of, trials) if record.role != PRIOR]


def record_of(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    """Returns our record of an Optuna trial."""
    from optuna.trial import TrialState

    stored = trial.user_attrs.get("result")
    result = None if stored is None else TrialResult.from_json(stored)
    unfinished = {TrialState.WAITING: TrialStatus.WAITING, TrialState.RUNNING: TrialStatus.RUNNING}
    ended = TrialStatus.INTERRUPTED if result is None else result.status
    history = trial.system_attrs.get("retry_history") or [None]
    return TrialRecord(
        number=trial.number,
        # A trial that waits has no parameters in Optuna yet, and one of the finals never gets any.
        params=dict(trial.params or trial.user_attrs.get("params") or trial.system_attrs.get("fixed_params", {})),
        status=unfinished.get(trial.state, ended),
        result=result,
        role=trial.user_attrs.get("role", "search"),
        seed=trial.user_attrs.get("seed", 0),
        arm=trial.user_attrs.get("arm"),
        values=dict(trial.intermediate_values)
        or {int(at): loss for at, loss in trial.user_attrs.get(CURVE, {}).items()},
        retry_of=history[-1],
        stage=trial.user_attrs.get("stage", ""),
        audited_at=trial.user_attrs.get(AUDITED_AT),
        stopped_at=trial.user_attrs.get(STOPPED_AT),
        budget_tokens=trial.user_attrs.get(BUDGET_TOKENS),
    )
