"""What a study file says, checked against its trainer and its algorithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.search.space import SearchSpace
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.checks import algorithm_errors
from autotune.study.errors import StudyFileError
from autotune.study.study_file import load


@pytest.mark.parametrize(("value", "fault"), [("0.05", ""), ("0.07", "0.07 is not within 0.0 to 0.1 in steps of 0.05")])
def test_settings_to_try_first_lie_on_the_grid(tmp_path: Path, value: str, fault: str) -> None:
    path = tmp_path / "night.toml"
    path.write_text(
        'name = "night"\ntrainer = "fake_trainer:train"\n[budget]\ntokens = 1_000\n[base]\nlr = 0.0\n[space]\n'
        f"lr = {{low = 0.0, high = 0.1, step = 0.05}}\n[[enqueue]]\nlr = {value}\n"
    )
    if not fault:
        assert load(path).spec.enqueue == ({"lr": 0.05},)
        return
    with pytest.raises(StudyFileError, match=fault):
        load(path)


SPACE = SearchSpace.model_validate({"lr": {"low": 0.1, "high": 1.0}})
BASE = {"lr": 0.5}


def errors_of(sampler: dict[str, Any], pruner: dict[str, Any], num_values: int = 1) -> list[tuple[str, str]]:
    return algorithm_errors(
        SamplerSpec.model_validate(sampler), PrunerSpec.model_validate(pruner), SPACE, BASE, 1_000, num_values
    )


def test_algorithms_that_work_have_no_errors() -> None:
    assert errors_of({"name": "tpe"}, {"name": "median"}) == []
    assert errors_of({"name": "tpe"}, {"name": "none"}, num_values=2) == []


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_gaussian_process_may_begin_without_random_trials() -> None:
    assert errors_of({"name": "gp", "n_startup_trials": 0}, {"name": "median"}) == []


def test_what_a_sampler_and_a_pruner_object_to_is_told_of_both() -> None:
    assert errors_of({"name": "grid"}, {"name": "percentile"}) == [
        ("sampler", "grid: a grid needs choices or a step, but the range is 0.1 to 1.0"),
        ("pruner", "percentile: it needs percentile; add percentile = ... to [pruner]"),
    ]


def test_several_values_refuse_a_pruner() -> None:
    ((table, error),) = errors_of({"name": "tpe"}, {"name": "median"}, num_values=2)
    assert table == "pruner"
    assert error.startswith("median compares only losses, but this study judges both loss and seconds")
    assert error.endswith('write pruner = {name = "none"}')
