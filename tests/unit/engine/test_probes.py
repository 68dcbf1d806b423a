"""What a probe tells while it runs."""

from __future__ import annotations

import time

import pytest

from autotune.core.records import EvalPoint
from autotune.engine.probes import Probe, RunningProbe


def _clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    moments = iter(times)
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))


def test_the_least_that_a_training_takes_before_its_pace_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was heard for 6 s of a probe of 4,000 tokens: 100,000 take 150 s at least."""
    _clock(monkeypatch, 100.0, 106.0)
    running = RunningProbe(budget_tokens=4_000, last_point=0)

    assert running.seconds_for(100_000) == pytest.approx(150)
    assert not running.has_pace


def test_the_pace_leaves_out_the_start_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 1,000 tokens were there after 30 s, the next 1,000 after 2 s more: 100,000 take 200 s."""
    _clock(monkeypatch, 100.0, 130.0, 132.0)
    running = RunningProbe(budget_tokens=4_000, last_point=0)
    for tokens in (1_000, 2_000):
        assert running.take(EvalPoint(tokens_seen=tokens, val_loss=5.0, metrics={}))

    assert running.has_pace
    assert running.seconds_for(100_000) == pytest.approx(200)


def test_a_first_evaluation_before_any_training_tells_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of no token; 8 s after the begin of a probe of 4,000 tokens, 100,000 take 200 s at least."""
    _clock(monkeypatch, 100.0, 105.0, 108.0)
    running = RunningProbe(budget_tokens=4_000, last_point=0)
    running.take(EvalPoint(tokens_seen=0, val_loss=5.0, metrics={}))

    assert not running.has_pace
    assert running.seconds_for(100_000) == pytest.approx(200)


def test_a_longer_training_may_have_more_evaluations() -> None:
    probe = Probe(100.0, eval_s=2.0, evaluations=5, seconds=0.0, tokens=0, peak_bytes=0, facts={})
    assert (probe.seconds_for(1_000), probe.seconds_for(1_000, evaluations=20)) == (20, 50)
    by_clock = Probe(0.0, eval_s=0.0, evaluations=5, seconds=30.0, tokens=100, peak_bytes=0, facts={})
    assert by_clock.seconds_for(1_000, evaluations=20) == 300
