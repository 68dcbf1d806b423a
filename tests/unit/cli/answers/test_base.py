"""Answers are strict JSON, whatever was measured and whatever files are called."""

from __future__ import annotations

import json
import math
import os

import pytest
from pydantic import ValidationError

from autotune.cli.answers.models import Evaluated, Generated
from autotune.cli.answers.studies import Arm


def test_numbers_that_are_not_finite_are_null() -> None:
    told = Evaluated(loss=math.nan, by_part={"a": [1.5, math.inf]}, tokens=3)
    assert json.loads(told.to_text(), parse_constant=pytest.fail) == {
        "schema": "autotune.evaluate/1",
        "loss": None,
        "by_part": {"a": [1.5, None]},
        "tokens": 3,
    }


def test_names_that_are_no_text_are_told_in_ascii() -> None:
    told = Generated(model=os.fsdecode(b"runs/\xff"), prompt="Größe", text="\N{SNOWMAN}").to_text()
    assert told.isascii()
    assert json.loads(told)["prompt"] == "Größe"
    assert os.fsencode(json.loads(told)["model"]) == b"runs/\xff"


def test_what_is_not_in_the_schema_is_refused() -> None:
    with pytest.raises(ValidationError, match="more"):
        Arm(name="x", target=1, searches=1, reached_frac=1, median_s=1, interval_s=[], seconds=[], best=[], more=1)
