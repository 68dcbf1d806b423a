"""Study files that are right: what the trainer adds, and changes by --set."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_text import TEXT

from autotune.core.config_paths import get_path
from autotune.study.errors import StudyFileError
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study, load


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
            "--set budget.trials=0: budget.trials: must be greater than or equal to 1, but it is 0",
        ),
        ("budget.trails=3", '--set budget.trails=3: budget.trails: unknown key (did you mean "trials"?)'),
        ("space.lr.lgo=true", '--set space.lr.lgo=true: space.lr.lgo: unknown key (did you mean "log"?)'),
        (
            "name=night",
            '--set name=night: not valid TOML: invalid value: name=night; text needs quotes, such as name = "night"',
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


def test_another_algorithm_does_not_inherit_the_parameters_of_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(
        'name = "night"\ntrainer = "fake_trainer:train"\n[budget]\ntokens = 1_000\n[space]\n'
        "lr = {low = 0.0001, high = 0.1}\n"
        "[sampler]\nn_startup_trials = 3\n[pruner]\nlost_frac = 0.1\naudit_frac = 0.5\n"
    )
    other = load(path, ['sampler={name="random"}', 'pruner.name="successive_halving"']).spec
    assert (other.sampler.options, other.pruner.options, other.pruner.audit_frac) == ({}, {}, 0.03)
    same = load(path, ["sampler.n_startup_trials=5", "pruner.audit_frac=0"]).spec
    assert (same.sampler.options, same.pruner.options) == ({"n_startup_trials": 5}, {"lost_frac": 0.1})
