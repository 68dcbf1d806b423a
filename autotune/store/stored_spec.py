"""What a study was begun with: its stored spec, held against its files, which may be renamed, changed or damaged."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autotune.core.attributes import StudyAttributes
from autotune.core.config_paths import drop_unknown_paths, flatten, with_paths
from autotune.core.disk_faults import explain_os_error
from autotune.core.errors import UserError
from autotune.core.requests import trials_wanted
from autotune.core.text import shortened
from autotune.search.searched import whole_space
from autotune.store.database import is_shared
from autotune.store.run_directory import RunDirectory
from autotune.study.algorithm_spec import PrunerSpec
from autotune.study.spec import StudySpec
from autotune.study.stored_function import is_stored
from autotune.study.study_file import Study

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


def as_stored(study: Study, storage: RDBStorage) -> Study:
    """Return a study as its storage has it: its folder, or its file, may be renamed since, and a default be another.

    Args:
        study: The study file and its trainer.
        storage: Its storage.
    """
    name = stored_name(storage, study.spec.name)
    pruner = _stored_pruner(storage, name, study.spec.pruner)
    return replace(study, spec=study.spec.model_copy(update={"name": name, "pruner": pruner}))


def _stored_pruner(storage: RDBStorage, name: str, pruner: PrunerSpec) -> PrunerSpec:
    """Return a pruner in which what a study file leaves out is as the study was begun with."""
    import optuna

    if name not in optuna.get_all_study_names(storage):
        return pruner
    attributes = StudyAttributes(optuna.load_study(study_name=name, storage=storage)).at_present()
    if is_shared(storage):
        require_readable(name, attributes)
    stored = attributes.spec
    if stored is None:
        return pruner

    given = {key: getattr(pruner, key) for key in pruner.model_fields_set}
    begun_with = StudySpec.model_validate(stored).pruner
    kept = {"audit_frac": begun_with.audit_frac} if "name" in given else begun_with.model_dump()
    return PrunerSpec.model_validate({**kept, **given})


def stored_name(storage: RDBStorage, name: str) -> str:
    """Return the name of the one search that a study's own database holds, or the given name."""
    # A shared database holds many studies, which only their names tell apart.
    if is_shared(storage):
        return name

    studies = storage.get_all_studies()
    searches = [study.study_name for study in studies if StudyAttributes.spec.name in study.user_attrs]
    if name in searches or not searches:
        return name
    if len(searches) > 1:
        raise UserError(
            f"the database of this folder holds the studies {', '.join(searches)}, and not {name}: name one of them "
            '(--set name="..."), or choose another folder (--out)'
        )
    return searches[0]


def require_readable(name: str, attributes: StudyAttributes) -> None:
    """Refuse a study of a shared database of which this version of autotune cannot read all.

    Args:
        name: Its name.
        attributes: What is stored with it at present.

    Raises:
        UserError: With exit code 3; it names what cannot be read.
    """
    wrong = attributes.unreadable()
    if not wrong and attributes.spec is not None:
        try:
            StudySpec.model_validate(attributes.spec)
        except ValidationError as error:
            wrong = f"spec ({_first_fault(error)})"
    if wrong:
        raise UserError(
            f"{name} was begun by another version of autotune, or was changed by hand in the database: {wrong} cannot "
            "be read here; use the same version on all machines",
            3,
        )


def read_spec(run: RunDirectory) -> StudySpec:
    """Return what `spec.json` says of a study.

    Raises:
        UserError: If there is none, or if it is damaged.
    """
    anew = f"`{run.command('run')}` writes it anew from study.toml and the database"
    try:
        return StudySpec.model_validate_json(run.spec.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if run.database.exists():
            raise UserError(f"{run.spec} is missing; {anew}", 3) from None
    except OSError as error:
        # No folder has a name that is too long to be one.
        if error.errno != errno.ENAMETOOLONG:
            raise explain_os_error(error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{run.spec} is damaged ({_first_fault(error)}); {anew}", 3) from None

    known = sorted(path.parent.name for path in run.root.parent.glob("*/spec.json"))
    hint = "; start one with `autotune run studies/...`"
    if known:
        hint = f"; the studies there are {', '.join(known)}"
    raise UserError(f"no study at {shortened(str(run.root), 200)}{hint}")


def _first_fault(error: Exception) -> str:
    """Return in a few words what is wrong with a file that is no study."""
    if not isinstance(error, ValidationError):
        return "it is no text" if isinstance(error, UnicodeError) else "it is no JSON"

    fault = error.errors(include_url=False)[0]
    path = ".".join(map(str, fault["loc"]))
    return f"{path}: {fault['msg']}" if path else str(fault["msg"])


def require_unchanged(run: RunDirectory, spec: StudySpec, attributes: StudyAttributes) -> None:
    """Refuse a `spec.json` that says something else than the study was begun with."""
    if attributes.spec is None:
        return

    begun = StudySpec.model_validate(attributes.spec)
    if begun.fingerprint() != spec.fingerprint():
        raise UserError(
            f"{run.spec} was changed since the study began:\n{_differences(begun, spec)}\nchange it back, or let "
            f"`{run.command('run')}` write it anew from study.toml",
            3,
        )


def completed(stored: Mapping[str, Any], study: Study) -> StudySpec:
    """Return a stored spec with the defaults of what its trainer, or the engine, has been given since."""
    spec = StudySpec.model_validate(stored)
    with contextlib.suppress(ValidationError):
        base = study.trainer.complete(spec.base)
        # An earlier version let a seed stand in the base, with which no trial trained.
        own = flatten(study.spec.base)
        seeds = {path: own[path] for path in [study.trainer.path_of("seed")] if path in own}
        return spec.model_copy(update={"base": with_paths(base, drop_unknown_paths(base, seeds))})
    return spec


def in_force(spec: StudySpec, attributes: StudyAttributes) -> StudySpec:
    """Return a study's settings as they count by now: its ranges as wide as they ever were, the trials wanted last.

    Args:
        spec: What the study file says.
        attributes: What is stored with the study.
    """
    attributes = attributes.at_present()
    trials = trials_wanted(spec.budget.trials, attributes.requests)
    budget = spec.budget.model_copy(update={"trials": trials})
    return spec.model_copy(update={"space": whole_space(spec.space, attributes), "budget": budget})


def changed(before: StudySpec, after: StudySpec) -> str:
    return (
        f"{after.name} was begun with other settings, so new trials would not be comparable with its own:\n"
        + _differences(before, after)
        + '\nchange them back, or give the study another name (--set name="...") or another folder (--out)'
    )


def _differences(before: StudySpec, after: StudySpec) -> str:
    """Return the settings that decide what trials mean and that differ, a line each."""
    old, new = flatten(before.semantics()), flatten(after.semantics())

    lines = []
    for path in sorted(old.keys() | new.keys()):
        if path == "trainer" and is_stored(before.trainer) and is_stored(after.trainer) and old[path] != new[path]:
            lines.append(
                f"  trainer: the function {after.trainer.partition(':')[2]} has changed, or what it uses: with another "
                "name autotune.tune begins another study, and autotune.run with the folder's path goes on with the "
                "function as it was"
            )
        elif old.get(path) != new.get(path):
            lines.append(f"  {path}: was {old.get(path, 'absent')!r}, is {new.get(path, 'absent')!r}")

    return "\n".join(lines)
