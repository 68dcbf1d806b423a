"""What a study was begun with: what its file leaves out stays as it was, whatever the defaults are by now."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_case import make_queue, make_study

from autotune.core.attributes import StudyAttributes
from autotune.store.database import open_storage
from autotune.store.run_directory import RunDirectory
from autotune.store.stored_spec import as_stored
from autotune.study.algorithm_spec import PrunerSpec

MEDIAN = {"name": "median", "audit_frac": 0.25, "n_startup_trials": 4}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), MEDIAN),
        (("pruner.audit_frac=0.5",), {**MEDIAN, "audit_frac": 0.5}),
        (('pruner.name="median"', "pruner.n_startup_trials=4"), MEDIAN),
        (('pruner.name="none"',), {"name": "none", "audit_frac": 0.25}),
    ],
)
def test_a_pruner_that_the_file_does_not_name_is_the_one_that_the_study_was_begun_with(
    tmp_path: Path, lines: tuple[str, ...], expected: dict[str, object]
) -> None:
    attributes = StudyAttributes(make_queue(tmp_path, make_study(tmp_path)).optuna_study)
    attributes.spec = {**(attributes.spec or {}), "pruner": MEDIAN}

    study = as_stored(make_study(tmp_path, *lines), open_storage(RunDirectory(tmp_path / "runs" / "night")))
    assert study.spec.pruner == PrunerSpec.model_validate(expected)


def test_a_new_study_has_the_default(tmp_path: Path) -> None:
    study = as_stored(make_study(tmp_path), open_storage(RunDirectory(tmp_path / "runs" / "night")))
    assert study.spec.pruner == PrunerSpec() and study.spec.pruner.name == "rank"
