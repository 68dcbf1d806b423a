"""Trials of an earlier study that count as a study's own (`trials_from`): where all but the space is the same.

They are stored with the search as if they had been made in it, so that samplers, pruners and finals know no difference,
but for two things: they took no seconds of this study, and they name the trial that they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import StudyAttributes, TrialAttributes
from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.records import TrialRecord, TrialStatus
from autotune.core.study_results import Plan, TakenAlong, TakenFrom
from autotune.core.text import duration
from autotune.finals.verdict import fresh_seeds
from autotune.machine.hardware import HardwareProfile
from autotune.night import warm_start
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_NO_RESULT = {
    TrialStatus.WAITING: "it was not trained",
    TrialStatus.RUNNING: "it had not ended",
    TrialStatus.INTERRUPTED: "it was interrupted",
    TrialStatus.CRASHED: "it crashed",
    TrialStatus.OUT_OF_MEMORY: "it did not fit into the memory there",
}
"""Ends that say nothing here, or nothing of another machine."""


@dataclass(frozen=True)
class Candidate:
    """A trial of an earlier study, and what it is here.

    Args:
        trial: The trial.
        settings: Its settings by dotted path, as this study searches them.
    """

    trial: TrialRecord
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Account:
    """Which trials of an earlier study count here.

    Args:
        name: The earlier study.
        taken: Those that do.
        left: Counts of those that do not, by the reason.
    """

    name: str
    taken: tuple[Candidate, ...]
    left: Mapping[str, int]

    @property
    def record(self) -> TakenAlong:
        """What is stored of it."""
        seconds = sum(each.trial.result.seconds for each in self.taken if each.trial.result)
        return TakenAlong(self.name, len(self.taken), seconds, dict(self.left))

    def lines(self) -> list[str]:
        """Return it in sentences for a person."""
        stored = self.record
        total = stored.taken + sum(self.left.values())
        line = f"{stored.taken} of {total} trials of {self.name} are taken along"
        if stored.taken:
            line += f"; they took {duration(stored.seconds)} there, and nothing here"
        return [line, *(f"{count} not, since {reason}" for reason, count in self.left.items())]


def account(study: Study, record: StudyRecord, data_hash: str = "", plan: Plan | None = None) -> Account:
    """Return which trials of an earlier study count in this one.

    Args:
        study: The study, with its base config resolved.
        record: The earlier study.
        data_hash: Hash of the data; "" if that is not known yet.
        plan: The plan of the night; None before there is one.
    """
    differs = warm_start.difference(study, record, data_hash, plan)
    if not differs and study.spec.seed != record.spec.seed:
        differs = f"seed is {study.spec.seed} here and {record.spec.seed} there"

    taken: list[Candidate] = []
    left: Counter[str] = Counter()
    for trial in record.trials:
        settings, reason = _fitted(study.spec, record, trial)
        reason = _NO_RESULT.get(trial.status, "") or differs or reason
        if not reason and any(settings == other.settings for other in taken):
            reason = "another of the same settings is"
        if reason:
            left[reason] += 1
        else:
            taken.append(Candidate(trial, settings))
    return Account(record.name, tuple(taken), dict(left))


def _fitted(spec: StudySpec, record: StudyRecord, trial: TrialRecord) -> tuple[Mapping[str, Any], str]:
    """Return a trial's settings as this study searches them, or why they are not among those that it may try."""
    base = flatten(spec.base)
    values = {**flatten(record.spec.base), **trial.params}
    for path in trial.params:
        if path not in spec.space.root and values[path] != base.get(path):
            return {}, f"{path} is always {base.get(path)!r} here"

    for path, dimension in spec.space.root.items():
        is_possible = path in values and dimension.contains(values[path]) and dimension.is_on_grid(values[path])
        if not is_possible and path in spec.space.active(values, spec.base):
            return {}, f"{path} is searched in {dimension.describe()} here"

    return spec.space.active({path: values[path] for path in spec.space if path in values}, spec.base), ""


def require_there(spec: StudySpec, attributes: StudyAttributes) -> None:
    """Refuse a study whose trials are to be taken along and that is not there, before anything is trained.

    Args:
        spec: The study that takes them.
        attributes: What is stored with it; what was taken along before is not looked for.

    Raises:
        UserError: If it cannot be read, or if a winner would be proved on seeds that have chosen it.
    """
    for folder in _missing(spec, attributes):
        _require_fresh_seeds(spec, read_study(Path(folder), spec.storage))


def _missing(spec: StudySpec, attributes: StudyAttributes) -> list[str]:
    return [folder for folder in spec.trials_from if folder not in attributes.taken_along]


def _require_fresh_seeds(spec: StudySpec, record: StudyRecord) -> None:
    ours, theirs = fresh_seeds(spec.finals, spec.seed), fresh_seeds(record.spec.finals, record.spec.seed)
    if ours.start < theirs.stop and theirs.start < ours.stop:
        raise UserError(
            f"finals.skip_seeds is {spec.finals.skip_seeds}, so this study would prove its winner on seeds that "
            f"{record.name} has chosen and proved its own on: write finals.skip_seeds = "
            f"{seeds_to_skip(spec.seed, record)}"
        )


def seeds_to_skip(seed: int, record: StudyRecord) -> int:
    """Return `finals.skip_seeds` of a study that takes another's trials along, whose finals it must not repeat.

    A winner of the other's finals is the luckier on their seeds for having won there, and whoever clones a study has
    seen them.

    Args:
        seed: The seed of the study that takes them.
        record: The other study.
    """
    from_the_first = fresh_seeds(record.spec.finals.model_copy(update={"skip_seeds": 0}), seed).start
    return max(0, fresh_seeds(record.spec.finals, record.spec.seed).stop - from_the_first)


def foreseen(study: Study, plan: Plan, facts: Mapping[str, Any], profile: HardwareProfile) -> int:
    """Return how many trials of earlier studies will count in this one, before any of them is stored with it.

    Args:
        study: The study, with its base config resolved.
        plan: The plan of the night.
        facts: What the trainer said of its probe.
        profile: The hardware.

    Raises:
        UserError: If one of the studies is not there.
    """
    count = 0
    for folder in study.spec.trials_from:
        record = read_study(Path(folder), study.spec.storage)
        found = account(study, record, str(facts.get("data_hash", "")), plan)
        count += len(_on_the_same_device(found, record, profile.to_json()).taken)
    return count


def take(study: Study, optuna_study: optuna.Study, device: Mapping[str, Any], plan: Plan | None) -> list[str]:
    """Store the trials of earlier studies with a search, each once.

    Args:
        study: The study.
        optuna_study: Its search.
        device: The hardware profile, JSON.
        plan: The plan of the night.

    Returns:
        What there is to say of it.
    """
    attributes = StudyAttributes(optuna_study)
    data_hash = str(attributes.probe_facts.get("data_hash", ""))
    lines = []
    for folder in _missing(study.spec, attributes):
        record = read_study(Path(folder), study.spec.storage)
        found = _on_the_same_device(account(study, record, data_hash, plan), record, device)
        there = {TrialAttributes(trial).taken_from for trial in optuna_study.get_trials(deepcopy=False)}
        for each in found.taken:
            origin = _origin(record, each.trial)
            if origin not in there:  # a kill may have come in between
                optuna_study.add_trial(_frozen(study.spec, each, origin))

        attributes.taken_along = {**attributes.taken_along, folder: found.record}
        lines += found.lines()
    return lines


def _on_the_same_device(found: Account, record: StudyRecord, device: Mapping[str, Any]) -> Account:
    """Return an account without any trial if the earlier study ran on another kind of device."""
    for name in ("device", "emulate"):
        here, there = device.get(name), record.hardware.get(name)
        if record.hardware and here != there:
            reason = f"they were trained on {there or 'no card'}, and this is {here or 'none that is emulated'}"
            return Account(found.name, (), {**found.left, reason: len(found.taken)})
    return found


def _origin(record: StudyRecord, trial: TrialRecord) -> TakenFrom:
    """Return which trial it was: of a study that has taken it along itself, that of the first."""
    if trial.taken_from is not None:
        return trial.taken_from
    seconds = trial.result.seconds if trial.result else 0.0
    return TakenFrom(record.name, trial.number, seconds)


def _frozen(spec: StudySpec, each: Candidate, origin: TakenFrom) -> FrozenTrial:
    """Return a trial as Optuna keeps it, like one that this study has trained in no time."""
    from optuna.trial import TrialState, create_trial

    trial, settings = each.trial, dict(each.settings)
    assert trial.result is not None, "one that ended has a result"
    result = replace(trial.result, seconds=0.0, started_at="", log="")
    is_baseline = settings == spec.space.baseline(spec.base)
    attributes: dict[str, Any] = {
        "role": "baseline" if is_baseline else "search",
        "params": settings,
        "seed": trial.seed,
        "result": result.to_json(),
        "taken_from": origin.to_json(),
    }
    if trial.stopped_at is not None:
        attributes["stopped_at"] = trial.stopped_at

    is_finished = trial.status is TrialStatus.FINISHED
    return create_trial(
        state=TrialState.COMPLETE if is_finished else TrialState.PRUNED,
        value=trial.loss,
        params=settings,
        distributions={path: spec.space[path].distribution() for path in settings},
        intermediate_values=dict(warm_start.reported(spec, trial)),
        user_attrs=attributes,
        system_attrs={"fixed_params": settings},
    )
