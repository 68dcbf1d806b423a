"""What a study file says, checked against its trainer and its algorithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.search.space import SearchSpace
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.checks import algorithm_errors
from autotune.study.errors import StudyFileError
from autotune.study.key_lines import Location
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


OWN_SEED = """
from pydantic import BaseModel

class Run(BaseModel):
    rng: int = 0

class Config(BaseModel):
    run: Run = Run()
    seed: int = 5
    lr: float = 0.1

def train(config: Config, budget_tokens, report):
    pass

setting_roles = {"seed": "run.rng"}
"""


@pytest.mark.parametrize(
    ("trainer", "content", "fault"),
    [
        ("fake_trainer", "[space]\nseed = {low = 0, high = 9}", r":6 space\.seed: .*study's seed, 1, .*be searched"),
        ("fake_trainer", "[space]\nseed = {choices = [0, 1]}", "so that a seed cannot be searched"),
        ("fake_trainer", "[base]\nseed = 3", r"base\.seed: .* not with 3; remove it, or write seed = 3 at the top"),
        ("fake_trainer", "[base]\nseed = 1", ""),
        ("fake_trainer", "[space]\nlayers = {low = 2, high = 3, when = {seed = 0}}", "nothing can depend on seed"),
        ("seed_trainer", '[space]\n"run.rng" = {low = 0, high = 9}', "so that a seed cannot be searched"),
        ("seed_trainer", "[base]\nrun.rng = 3", r"base\.run\.rng: .* not with 3; remove it"),
        ("seed_trainer", "[space]\nseed = {low = 1, high = 9}", ""),  # a setting like any other here
    ],
)
def test_a_seed_that_no_trial_would_train_with_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: str, content: str, fault: str
) -> None:
    (tmp_path / "seed_trainer.py").write_text(OWN_SEED)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "night.toml"
    space = "" if "[space]" in content else "\n[space]\nlr = {low = 0.001, high = 0.1}"
    path.write_text(f'name = "night"\ntrainer = "{trainer}:train"\n[budget]\ntokens = 1_000\n{content}{space}\n')
    if not fault:
        load(path)
        return
    with pytest.raises(StudyFileError, match=fault):
        load(path)


SPACE = SearchSpace.model_validate({"lr": {"low": 0.1, "high": 1.0}})
BASE = {"lr": 0.5}


def errors_of(sampler: dict[str, Any], pruner: dict[str, Any], num_values: int = 1) -> list[tuple[Location, str]]:
    return algorithm_errors(
        SamplerSpec.model_validate(sampler), PrunerSpec.model_validate(pruner), SPACE, BASE, 1_000, num_values
    )


def test_algorithms_that_work_have_no_errors() -> None:
    assert errors_of({"name": "tpe"}, {"name": "median"}) == []
    assert errors_of({"name": "tpe"}, {"name": "none"}, num_values=2) == []


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_gaussian_process_may_begin_without_random_trials() -> None:
    assert errors_of({"name": "gp", "n_startup_trials": 0}, {"name": "median"}) == []
    assert errors_of({"name": "gp", "n_startup_trials": 0}, {"name": "none"}, num_values=2) == []


def test_what_a_sampler_and_a_pruner_object_to_is_told_of_both() -> None:
    assert errors_of({"name": "grid"}, {"name": "percentile"}) == [
        (("sampler",), "grid: a grid needs choices or a step, but the range is 0.1 to 1.0"),
        (("pruner",), "percentile: it needs percentile; add percentile = ... to [pruner]"),
    ]


def test_several_values_refuse_a_pruner() -> None:
    ((location, error),) = errors_of({"name": "tpe"}, {"name": "median"}, num_values=2)
    assert location == ("pruner",)
    assert error.startswith("median compares only losses, but this study judges both loss and seconds")
    assert error.endswith('write pruner = {name = "none"}')
