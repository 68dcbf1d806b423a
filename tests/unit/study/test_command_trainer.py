"""What a program prints, taken for evaluations."""

from __future__ import annotations

import math

import pytest

from autotune.core.metric import Metric
from autotune.study.command_trainer import evaluation

PATTERN = r"step (?P<tokens>\S+) loss (?P<loss>\S+)( lr (?P<lr>\S+))?"


@pytest.mark.parametrize(
    ("line", "pattern", "point"),
    [
        ('{"tokens": 5, "loss": 0.5, "name": "x"}', "", {"tokens": 5.0, "loss": 0.5}),
        ('{"tokens": null, "loss": 0.5}', "", None),
        ('{"tokens": 5, "loss": "n/a"}', "", None),
        ('{"tokens": 5}', "", None),
        ("[5]", "", None),
        ("step 5 loss 0.5", PATTERN, {"tokens": 5.0, "loss": 0.5}),
        ("step 5 loss -", PATTERN, None),
        ("epoch 5", PATTERN, None),
    ],
)
def test_only_a_line_with_both_numbers_is_an_evaluation(
    line: str, pattern: str, point: dict[str, float] | None
) -> None:
    assert evaluation(line, pattern, Metric()) == point


def test_a_loss_that_is_null_is_not_a_number() -> None:
    point = evaluation('{"tokens": 5, "loss": null}', "", Metric())
    assert point is not None and math.isnan(point["loss"]) and point["tokens"] == 5.0
