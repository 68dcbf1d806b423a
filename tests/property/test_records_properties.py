"""Properties of the records: whatever is measured survives strict JSON, non-finite numbers as missing ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.core.records import EvalPoint, TrialResult, TrialStatus, Verdict, VerdictWord

NUMBERS = st.floats()
NAMES = st.text("abcdefgh_", min_size=1, max_size=12).filter(lambda name: name not in ("tokens_seen", "val_loss"))
POINTS = st.builds(EvalPoint, st.integers(0, 2**62), NUMBERS, st.dictionaries(NAMES, NUMBERS, max_size=4))
FACTS = st.dictionaries(NAMES, st.one_of(st.integers(), st.text(), st.none(), st.lists(st.integers())), max_size=3)
RESULTS = st.builds(
    TrialResult,
    status=st.sampled_from(TrialStatus),
    cause=st.text(),
    points=st.lists(POINTS, max_size=4).map(tuple),
    facts=FACTS,
    seconds=st.floats(0, 1e6),
    config=FACTS,
    worker_died=st.booleans(),
)


def finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def same(left: EvalPoint, right: EvalPoint) -> bool:
    """Equality in which missing numbers are equal."""
    return str(left) == str(right)


def as_read(point: EvalPoint) -> EvalPoint:
    return EvalPoint(
        point.tokens_seen, finite(point.val_loss), {name: finite(value) for name, value in point.metrics.items()}
    )


@settings(deadline=None)
@given(point=POINTS)
def test_points(point: EvalPoint) -> None:
    text = json.dumps(point.to_json(), allow_nan=False)
    assert same(EvalPoint.from_json(json.loads(text)), as_read(point))


@settings(deadline=None)
@given(result=RESULTS)
def test_results(result: TrialResult) -> None:
    read = TrialResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert replace(read, points=()) == replace(result, points=())
    assert len(read.points) == len(result.points)
    assert all(same(left, as_read(right)) for left, right in zip(read.points, result.points, strict=True))
    assert str(read.last_finite) == str(as_read(result.last_finite) if result.last_finite else None)


@settings(deadline=None)
@given(
    word=st.sampled_from(VerdictWord),
    seeds=st.lists(st.integers(0, 10**6)).map(tuple),
    gain=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_verdicts(word: VerdictWord, seeds: tuple[int, ...], gain: float | None) -> None:
    verdict = Verdict(word, "because", 1, {"lr": 0.1}, seeds, gain=gain, gain_low=gain)
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict
