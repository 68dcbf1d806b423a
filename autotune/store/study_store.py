"""The Optuna study behind a study: opening it, or refusing to, and writing results.

Optuna's storage holds everything that a report needs: a trial's result is stored with the trial before
Optuna is told, so that a kill at any moment leaves either a result to finish telling or a trial to repeat.
The files in `trials/` are copies of it for people and other programs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.core import objectives
from autotune.core.attributes import PRIOR, StudyAttributes, TrialAttributes
from autotune.core.errors import UserError
from autotune.core.files import now_iso, write_json
from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.own_words import told
from autotune.core.records import TrialResult
from autotune.store.absence import again_if_cut_off
from autotune.store.database import exclusive, is_shared
from autotune.store.stored_spec import changed, completed
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

    begun = optuna.load_study(study_name=spec.name, storage=storage)
    stored = StudyAttributes(begun).spec
    if stored is None:
        _require_own(begun, len(begun.directions) == objectives.num_values(spec.objective))
        return
    before = completed(stored, study)
    if before.fingerprint() == spec.fingerprint():
        return

    own = [name for name in names if name == spec.name or name.startswith(f"{spec.name}.")]
    if spec.storage or any(_has_evaluated(storage, name) for name in own):
        raise UserError(changed(before, spec))
    for name in own:
        optuna.delete_study(study_name=name, storage=storage)


def _require_own(begun: optuna.Study, has_as_many_values: bool) -> None:
    """Refuse an Optuna study of the same name that another program has made; ours is empty without its settings."""
    from optuna.study import StudyDirection

    is_empty = not begun.get_trials(deepcopy=False)
    if is_empty and has_as_many_values and set(begun.directions) == {StudyDirection.MINIMIZE}:
        return
    raise UserError(
        f"the database holds an Optuna study {begun.study_name} that another program has made: give this one another "
        f'name (--set name="..."), or name another database'
    )


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
