"""Errors for programs: what kind, where, and what to do."""

from __future__ import annotations

from autotune.cli.answers.errors import error_of
from autotune.core.errors import UserError
from autotune.study.errors import StudyFileError


def test_the_faults_of_a_study_file_have_their_places() -> None:
    told = error_of(
        StudyFileError(
            'night.toml:12 space.optim.lr.lgo: unknown key (did you mean "log"?)\n--set budget.trials=0: '
            "budget.trials: must be 1 or more"
        )
    )
    assert (told.kind, told.where, told.exit_code) == ("study file", "night.toml:12", 2)
    assert [(fault.where, fault.key) for fault in told.faults] == [
        ("night.toml:12", "space.optim.lr.lgo"),
        ("--set budget.trials=0", None),
    ]
    assert told.faults[0].message == 'unknown key (did you mean "log"?)'


def test_what_to_do_is_told_apart() -> None:
    told = error_of(UserError("night is running (PID 7); wait for it, or stop it first", 5))
    assert (told.kind, told.what_to_do, told.where) == (
        "held by another process",
        "wait for it, or stop it first",
        None,
    )
    assert error_of(UserError("the run ended", 1)).what_to_do is None


def test_each_exit_code_has_its_kind() -> None:
    kinds = {code: error_of(UserError("x", code)).kind for code in (1, 2, 3, 4, 5, 130)}
    assert kinds == {
        1: "failed",
        2: "usage",
        3: "machine",
        4: "no trial finished",
        5: "held by another process",
        130: "stopped",
    }
