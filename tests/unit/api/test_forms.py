"""What Python code says of a study, as a study file's text."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autotune.api.forms import changes_text, dimension, ranges_by_path, settings, study_text, whole
from autotune.core.errors import UserError
from autotune.search.space import SearchSpace


@pytest.mark.parametrize(
    ("form", "table"),
    [
        ((0.001, 0.1), {"low": 0.001, "high": 0.1}),
        ((1, np.int64(8)), {"low": 1, "high": 8}),
        (["adam", "sgd"], {"choices": ["adam", "sgd"]}),
        ({"low": 1e-4, "high": 0.1, "log": True}, {"low": 1e-4, "high": 0.1, "log": True}),
        (FloatDistribution(1e-4, 0.1, log=True), {"low": 1e-4, "high": 0.1, "log": True}),
        (FloatDistribution(0, 1, step=0.25), {"low": 0.0, "high": 1.0, "step": 0.25}),
        (IntDistribution(1, 8), {"low": 1, "high": 8}),
        (IntDistribution(2, 8, step=2), {"low": 2, "high": 8, "step": 2}),
        (IntDistribution(1, 8, log=True), {"low": 1, "high": 8, "log": True}),
        (CategoricalDistribution([0.0, 0.5]), {"choices": [0.0, 0.5]}),
    ],
)
def test_every_form_of_a_dimension_is_one_of_a_study_file(form: object, table: dict[str, object]) -> None:
    assert dimension(form, "space['x']") == table
    # It is one that the engine takes.
    assert len(SearchSpace.model_validate({"x": tomllib.loads(study_text({}, {"x": form}))["space"]["x"]})) == 1


@pytest.mark.parametrize("form", [0.1, "adam", (1, 2, 3), None])
def test_another_form_is_refused_with_those_that_there_are(form: object) -> None:
    with pytest.raises(UserError, match=r"space\['lr'\] is .*; write a pair \(low, high\)"):
        study_text({}, {"lr": form})


def test_what_toml_cannot_hold_is_named() -> None:
    with pytest.raises(UserError, match=r"base\.model\.size is None, which a study file cannot hold"):
        study_text({"base": {"model": {"size": None}}}, {})
    with pytest.raises(UserError, match=r"space is \[\]; write what is searched"):
        study_text({}, [])  # type: ignore[arg-type]


def test_arrays_paths_and_tuples_become_plain() -> None:
    base = {"sizes": np.array([1, 2]), "rate": np.float32(0.5), "path": Path("a/b"), "betas": (0.9, 0.99)}
    text = study_text({"base": base, "title": None}, {"lr": (1, 2)})
    content = tomllib.loads(text)
    assert content["base"] == {"sizes": [1, 2], "rate": 0.5, "path": "a/b", "betas": [0.9, 0.99]}
    assert "title" not in content


def test_changes_become_assignments() -> None:
    changes = {"budget.trials": 5, 'space."optim.lr".high': 0.5, "base": {"text": 'a "b"'}, "title": "x\ny"}
    merged = [tomllib.loads(line) for line in changes_text(changes)]
    assert merged[0] == {"budget": {"trials": 5}} and merged[1] == {"space": {"optim.lr": {"high": 0.5}}}
    assert merged[2] == {"base": {"text": 'a "b"'}} and merged[3] == {"title": "x\ny"}
    assert changes_text("seed=3") == ["seed=3"] == changes_text(["seed=3"])
    assert changes_text(None) == []


def test_numbers_of_tables_become_pythons_own() -> None:
    assert [repr(whole(value, "tokens")) for value in (5, 5e6, np.int64(5))] == ["5", "5000000", "5"]
    assert settings({"lr": np.float64(0.5), "n": np.int64(3)}, "add") == {"lr": 0.5, "n": 3}
    assert ranges_by_path({"lr": np.array([0.1, 0.5]), "n": (1, 2)}) == {"lr": [0.1, 0.5], "n": [1, 2]}


@pytest.mark.parametrize("value", [5.5, "5", True, None, [5]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"^tokens is "):
        whole(value, "tokens")


def test_what_is_no_mapping_of_settings_is_refused() -> None:
    with pytest.raises(UserError, match=r"add is 'lr=0\.5'; write settings by dotted path"):
        settings("lr=0.5", "add")
    with pytest.raises(UserError, match=r"ranges\['lr'\] is 5; write \(low, high\)"):
        ranges_by_path({"lr": 5})
