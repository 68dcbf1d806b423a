"""Recorded tables that the tests of replays share: small ones by hand, and one of a smooth function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.core.records import TrialStatus
from autotune.replay.table import Row, Table
from autotune.study.spec import StudySpec

LR = {"lr": {"low": 0.001, "high": 1.0, "log": True}}
CONDITIONAL = {
    "name": {"choices": ["adam", "sgd", "lion"]},
    "beta": {"low": 0.0, "high": 1.0, "when": {"name": "adam"}},
}
CONDITIONAL_BASE = {"name": "adam", "beta": 0.75}


def row(
    params: Mapping[str, Any],
    losses: Sequence[float] = (4.0, 3.0),
    status: TrialStatus = TrialStatus.FINISHED,
    speed: float = 100.0,
    eval_s: float = 1.0,
    set_up_s: float = 2.0,
) -> Row:
    """A row of 14 s, or of 8 s to its first evaluation, unless told otherwise."""
    return Row(params, status, tuple(losses), speed, eval_s, set_up_s)


def table(
    rows: Sequence[Row],
    space: Mapping[str, Any] = LR,
    base: Mapping[str, Any] | None = None,
    name: str = "night",
    tokens: Sequence[int] = (500, 1_000),
) -> Table:
    spec = StudySpec.model_validate(
        {"name": name, "budget": {"tokens": tokens[-1]}, "base": base or {"lr": 0.01}, "space": space}
    )
    return Table(spec, {}, tuple(tokens), tuple(rows))


def bowl_table(count: int, noise: float = 0.0) -> Table:
    """Rows of a smooth function: best at lr 0.03 and width 0.4; the speed falls with the width."""
    rng = np.random.default_rng(5)
    rows = [
        row({"lr": float(lr), "width": float(width)}, bowl(lr, width, rng.normal(0, noise)), speed=speed(width))
        for lr, width in zip(10 ** rng.uniform(-3, 0, count), rng.uniform(0, 1, count), strict=True)
    ]
    return table(rows, {**LR, "width": {"low": 0.0, "high": 1.0}}, {"lr": 0.3, "width": 0.9})


def bowl(lr: float, width: float, shift: float = 0.0) -> tuple[float, float]:
    end = 2.0 + math.log10(lr / 0.03) ** 2 / 2 + (width - 0.4) ** 2 + shift
    return end + 1.0 + 0.3 * width, end


def speed(width: float) -> float:
    return 100.0 * math.exp(-width)
