"""Study files that are right: changes by --set, the fingerprint, and what the trainer adds."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from autotune.core.config_paths import get_path
from autotune.study.errors import StudyFileError
from autotune.study.spec import FinalsSpec, PrunerSpec, StudySpec
from autotune.study.study_file import Study, load

TEXT = """
name = "night"
trainer = "fake_trainer:train"

[budget]
tokens = 1_000

[base]
lr = 0.02

[space]
lr = {low = 0.0001, high = 0.1, log = true}
"output.dir" = {choices = ["", "a"]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "night.toml"
    file.write_text(TEXT)
    return file


def test_the_base_is_completed_by_the_trainers_defaults(path: Path) -> None:
    study = load(path)
    assert study.explicit == {"lr"}
    assert get_path(study.spec.base, "lr") == 0.02
    assert get_path(study.spec.base, "layers") == 2
    assert get_path(study.spec.base, "output.dir") == ""
    assert study.text == TEXT


def test_a_byte_order_mark_is_no_fault(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert load(path).spec == StudySpec.model_validate(load(path).spec.model_dump())


# --- --set ---


def changed(path: Path, *changes: str) -> Study:
    return load(path, changes)


def test_changes_reach_into_tables_and_leave_the_rest(path: Path) -> None:
    study = changed(
        path, 'space."lr".high=0.05', "budget.trials=3", 'name="other"', 'space."output.dir".choices=["", "b"]'
    )
    assert (study.spec.space["lr"].low, study.spec.space["lr"].high, study.spec.space["lr"].log) == (0.0001, 0.05, True)
    assert study.spec.space["output.dir"].choices == ("", "b")
    assert (study.spec.budget.tokens, study.spec.budget.trials, study.spec.name) == (1_000, 3, "other")


def test_changes_may_add_settings_and_tables_and_the_last_one_wins(path: Path) -> None:
    study = changed(path, "space.layers={low=1, high=4}", 'sampler.name="random"', "seed=2", "seed=3", "base.heads=4")
    assert list(study.spec.space) == ["lr", "output.dir", "layers"]
    assert (study.spec.sampler.name, study.spec.seed) == ("random", 3)
    assert study.explicit == {"lr", "heads"}


def test_the_changed_file_is_kept_as_a_file_that_gives_the_same_study(path: Path, tmp_path: Path) -> None:
    study = changed(path, "budget.trials=3", 'title="""two\nlines = 1"""')
    again = tmp_path / "again.toml"
    again.write_text(study.text)
    assert study.text.startswith("# --set budget.trials=3\n")
    assert load(again).spec == study.spec
    assert load(again).spec.title == "two\nlines = 1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "budget.trials=0",
            "--set budget.trials=0: budget.trials: input should be greater than or equal to 1, but it is 0",
        ),
        ("budget.trails=3", '--set budget.trails=3: budget.trails: unknown key, did you mean "trials"?'),
        ("space.lr.lgo=true", '--set space.lr.lgo=true: space.lr.lgo: unknown key, did you mean "log"?'),
        (
            "name=night",
            '--set name=night: not valid TOML: invalid value: name=night; a text needs quotes, such as name = "night"',
        ),
    ],
)
def test_a_fault_of_a_change_is_told_as_one(path: Path, change: str, message: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        changed(path, change)
    assert str(caught.value) == message


def test_faults_of_the_file_come_before_those_of_changes(path: Path) -> None:
    path.write_text(TEXT.replace("tokens = 1_000", "tokens = 0"))
    with pytest.raises(StudyFileError) as caught:
        changed(path, "seed=-1")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{path}:6 budget.tokens",
        "--set seed=-1",
    ]


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
        {"pruner": {"n_startup_trials": 3}},
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
        {"budget": {"trials": 3}},
        {"budget": {"hours": 3.0}},
        {"budget": {"until": "07:00"}},
        {"limits": {"hang_s": 1.0, "crashes": 9, "retries": 1, "heartbeat_s": 3, "min_free_bytes": 0}},
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


def test_what_the_engine_does_with_a_pruner_is_none_of_its_own_parameters() -> None:
    given = PrunerSpec.model_validate({"name": "median", "n_startup_trials": 4, "audit_frac": 0.25})
    assert (given.options, given.audit_frac) == ({"n_startup_trials": 4}, 0.25)
    assert (PrunerSpec().options, PrunerSpec().audit_frac) == ({}, 0.1)


def test_another_algorithm_does_not_inherit_the_parameters_of_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(
        'name = "night"\ntrainer = "fake_trainer:train"\n[budget]\ntokens = 1_000\n[space]\n'
        "lr = {low = 0.0001, high = 0.1}\n"
        "[sampler]\nn_startup_trials = 3\n[pruner]\nn_startup_trials = 4\naudit_frac = 0.5\n"
    )
    other = load(path, ['sampler={name="random"}', 'pruner.name="successive_halving"']).spec
    assert (other.sampler.options, other.pruner.options, other.pruner.audit_frac) == ({}, {}, 0.1)
    same = load(path, ["sampler.n_startup_trials=5", "pruner.audit_frac=0"]).spec
    assert (same.sampler.options, same.pruner.options) == ({"n_startup_trials": 5}, {"n_startup_trials": 4})


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
