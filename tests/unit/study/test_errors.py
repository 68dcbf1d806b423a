"""The errors of a study file: their places, their order and their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from autotune.study.errors import (
    StudyFileError,
    StudyFileErrors,
    did_you_mean,
    explain_validation_error,
    parse,
    salvage,
)


def test_the_nearest_name_is_suggested_and_swapped_letters_come_first() -> None:
    known = ["low", "high", "log", "step", "choices", "when"]
    assert did_you_mean("lgo", known) == ' (did you mean "log"?)'
    assert did_you_mean("choises", known) == ' (did you mean "choices"?)'
    assert did_you_mean("zzz", known) == did_you_mean("low", []) == ""


TEXT = 'name = "night"\n\n[budget]\ntokens = 1\n'


def errors_of(*changes: str) -> StudyFileErrors:
    return StudyFileErrors(Path("night.toml"), TEXT, changes)


def test_an_error_names_its_line_or_that_of_the_table_around_it() -> None:
    errors = errors_of()
    errors.add(("budget", "hours"), "is missing")
    errors.add(("name",), "is taken")
    errors.add(("space",), "is missing")
    assert errors.in_order() == [
        "night.toml:1 name: is taken",
        "night.toml:1 space: is missing",
        "night.toml:3 budget.hours: is missing",
    ]


def test_an_error_of_a_change_names_the_change_and_comes_last() -> None:
    errors = errors_of("budget.tokens=0", "seed=-1")
    errors.add(("seed",), "is negative")
    errors.add(("budget", "tokens"), "is zero")
    errors.add(("name",), "is taken")
    assert errors.in_order() == [
        "night.toml:1 name: is taken",
        "--set budget.tokens=0: budget.tokens: is zero",
        "--set seed=-1: seed: is negative",
    ]


def test_only_the_first_error_of_a_place_is_kept() -> None:
    errors = errors_of()
    assert not errors
    errors.add(("name",), "first")
    errors.add(("name",), "second")
    assert errors and errors.in_order() == ["night.toml:1 name: first"]


def test_a_place_within_a_table_that_is_wrong_has_an_error() -> None:
    errors = errors_of()
    errors.add(("budget",), "is wrong")
    assert errors.has(("budget",))
    assert errors.has(("budget", "tokens"))
    assert not errors.has(("name",))


class Pair(BaseModel):
    left: int
    right: int = 0


def test_what_is_wrong_is_left_out_until_the_rest_builds() -> None:
    recorded: list[str] = []

    def record(error: Any) -> tuple[str, ...]:
        recorded.append(error["type"])
        return tuple(map(str, error["loc"]))

    def drop(content: dict[str, Any], location: tuple[str, ...]) -> dict[str, Any]:
        return {key: value for key, value in content.items() if key != location[0]}

    assert salvage({"left": 1, "right": "x"}, Pair.model_validate, drop, record) == Pair(left=1)
    assert recorded == ["int_parsing"]
    # Without `left` there is nothing to build, and dropping it again changes nothing.
    assert salvage({"left": "x"}, Pair.model_validate, drop, record) is None
    assert recorded == ["int_parsing", "int_parsing", "missing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a = 1\na = 2\n",
            "night.toml:2: not valid TOML: cannot overwrite a value: a = 2; the key is given twice, keep one of them",
        ),
        ("a = x\n", 'night.toml:1: not valid TOML: invalid value: a = x; text needs quotes, such as name = "night"'),
        (
            "[a]\n[a]\n",
            "night.toml:2: not valid TOML: cannot declare ('a',) twice: [a]; the table is given twice, merge the two",
        ),
    ],
)
def test_invalid_toml_is_told_with_its_line_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        parse(text, "night.toml")
    assert str(caught.value) == message


def test_an_error_of_pydantic_in_words() -> None:
    with pytest.raises(ValidationError) as caught:
        Pair.model_validate({"left": "x"})
    (error,) = caught.value.errors()
    assert explain_validation_error(error, ("left",)) == ("must be a valid integer, but it is 'x'")
    missing = {"type": "missing", "loc": ("budget", "tokens"), "input": {}, "msg": "Field required"}
    assert explain_validation_error(missing, ("budget", "tokens")) == "is missing; add tokens = 1_000_000 to [budget]"
