"""What a study file may say: its fingerprint and the trainings of its finals."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from study_text import TEXT

from autotune.study.spec import FinalsSpec, StudySpec

# --- the fingerprint ---


def spec(**changes: Any) -> StudySpec:
    content = tomllib.loads(TEXT)
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return StudySpec.model_validate(content)


def test_the_fingerprint_is_stable() -> None:
    swapped = dict(reversed(tomllib.loads(TEXT).items()))
    swapped["space"] = dict(reversed(swapped["space"].items()))
    assert StudySpec.model_validate(swapped).fingerprint() == spec().fingerprint()
    assert StudySpec.model_validate(spec().model_dump(mode="json")).fingerprint() == spec().fingerprint()
    assert len(spec().fingerprint()) == 16
    assert int(spec().fingerprint(), 16) >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": "model.train:train"},
        {"seed": 2},
        {"budget": {"tokens": 2_000}},
        {"base": {"layers": 3}},
        {"base": {"lr": 0.03}},
        {"space": {"lr": {"low": 0.0001, "high": 0.2, "log": True}}},
        {"space": {"lr": {"low": 0.0001, "high": 0.1}}},
        {"space": {"layers": {"choices": [1, 2]}}},
        {"space": {"output.dir": {"choices": ["a", ""]}}},
        {"sampler": {"name": "random"}},
        {"sampler": {"n_startup_trials": 3}},
        {"pruner": {"name": "none"}},
        {"pruner": {"lost_frac": 0.1}},
        {"finals": {"finalists": 3}},
        {"finals": {"select_seeds": 2}},
        {"finals": {"prove_seeds": 5}},
        {"finals": {"min_gain_frac": 0.01}},
    ],
)
def test_what_makes_trials_incomparable_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert spec(**change).fingerprint() != spec().fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"title": "A title"},
        {"storage": "postgresql://host/base"},
        {"storage": "postgresql://host/base", "mixed": True},
        {"budget": {"trials": 3}},
        {"budget": {"hours": 3.0}},
        {"budget": {"until": "07:00"}},
        {"limits": {"hang_s": 1.0, "crashes": 9, "retries": 1, "heartbeat_s": 3, "min_free_bytes": 0, "grace_s": 2}},
        {"promote": {"tokens": 5, "automatic": True}},
    ],
)
def test_what_may_change_in_the_middle_leaves_the_fingerprint(change: dict[str, Any]) -> None:
    assert spec(**change) != spec()
    assert spec(**change).fingerprint() == spec().fingerprint()


# --- defaults ---


@pytest.mark.parametrize(
    ("finals", "runs"),
    [
        (FinalsSpec(finalists=1, select_seeds=3, prove_seeds=4), 8),
        (FinalsSpec(finalists=2, select_seeds=1, prove_seeds=4), 10),
        (FinalsSpec(finalists=3, select_seeds=2, prove_seeds=2), 10),
    ],
)
def test_trainings_of_the_finals_by_hand(finals: FinalsSpec, runs: int) -> None:
    assert finals.runs == runs
