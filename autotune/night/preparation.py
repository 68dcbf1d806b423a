"""The data of a study: made ready before anything is trained, and held to what the study was begun with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autotune.core.attributes import StudyAttributes
from autotune.core.config_paths import drop_unknown_paths, with_paths
from autotune.core.errors import UserError
from autotune.study.preparation import prepare
from autotune.study.study_file import Study


def prepare_study(study: Study, say: Callable[[str], None], preparing: Callable[[str], None]) -> Mapping[str, Any]:
    """Let the trainer prepare the baseline, and the corners of what is searched.

    Args:
        study: The study file and its trainer.
        say: Takes a line for a person.
        preparing: Takes a sentence that says how far it is, as often as there is something new.

    Returns:
        What the trainer said of it, under the names of a training's facts; {} if it prepares nothing.

    Raises:
        UserError: If a training could not be made of it.
    """
    base = study.spec.base
    configs = [base]
    for corner in study.spec.space.at_limits().corners(base):
        configs.append(with_paths(base, corner))
    return prepare(study.trainer, configs, study.spec.budget.tokens, say, preparing, study.place_of)


def require_same_data(study: Study, attributes: StudyAttributes, prepared: Mapping[str, Any]) -> None:
    """Refuse to go on with a study on other data than those that it was begun with.

    Args:
        study: The study file and its trainer.
        attributes: What is stored with the study.
        prepared: What `prepare_study` returned.

    Raises:
        UserError: If the data are others.
    """
    before = str(attributes.probe_facts.get("data_hash", ""))
    now = str(prepared.get("data_hash", before))
    if not before or now == before:
        return

    raise UserError(
        f"the data have changed since {study.spec.name} was begun: their hash was {before[:12]} and is {now[:12]}, and "
        "results on different data cannot be ranked together; put the data back, or give the study another name "
        '(--set name="...") or another folder (--out)'
    )


def expected_data(study: Study, attributes: StudyAttributes) -> dict[str, Any]:
    """Return the hash of the data that every training is held to, by the dotted path of the setting that takes it.

    Args:
        study: The study file and its trainer.
        attributes: What is stored with the study.

    Returns:
        Nothing if the trainer has no such setting, or if a setting beside it is searched, which may change the data.
    """
    path = study.trainer.path_of("expected_data")
    known = attributes.probe_facts.get("data_hash")
    if path is None or not known:
        return {}

    section = path.rpartition(".")[0]
    if any(searched.rpartition(".")[0] == section for searched in study.spec.space.root):
        return {}
    return drop_unknown_paths(study.spec.base, {path: str(known)})
