"""Whole simulated studies, from the search on a recorded table to the verdict, with the noise between seeds.

The settings' true losses are rows of the table of an H100, the noise is what three seeds there showed: 0.01 nats. The
search sees one noisy loss of each of 40 settings; finalists, seeds, looks and verdict are the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from replay_finals import verdict_of

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, Verdict, VerdictWord
from autotune.finals.verdict import FinalRun
from autotune.replay import table
from autotune.study.spec import FinalsSpec

TABLE = Path(__file__).parents[2] / "benchmarks" / "overnight_h100.json"
SIGMA, TRIALS = 0.01, 40


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """True final losses by row; the baseline's first."""
    return [row.losses[-1] for row in table.read(TABLE).rows]


def trained(number: int, params: Mapping[str, int], loss: float, **more: object) -> TrialRecord:
    result = TrialResult(TrialStatus.FINISHED, points=(EvalPoint(100, loss),))
    return TrialRecord(number, params, TrialStatus.FINISHED, result, **more)  # type: ignore[arg-type]


def study(random: np.random.Generator, truth: Sequence[float], spec: FinalsSpec) -> Verdict:
    """A study of settings whose true losses are given, the baseline's first."""

    def noisy(row: int) -> float:
        return truth[row] + SIGMA * random.standard_normal()

    def final(run: FinalRun) -> TrialRecord:
        return trained(run.arm, run.params, noisy(run.arm), arm=run.arm, seed=run.seed, stage=run.stage)

    search = [trained(row, {"row": row}, noisy(row)) for row in range(len(truth))]
    return verdict_of(search, search[0], spec, final)


def test_studies_without_any_real_difference_announce_a_win_in_five_of_a_hundred_at_most(losses: list[float]) -> None:
    """A/A, 500 of them: the best of 40 equal settings looks two standard deviations better than it is."""
    random, spec = np.random.default_rng(1), FinalsSpec(finalists=3)
    words = [study(random, [losses[0]] * TRIALS, spec).word for _ in range(500)]
    assert words.count(VerdictWord.BETTER) <= 25
    assert words.count(VerdictWord.NO_CLEAR_GAIN) >= 450, "and most of them say so"


def test_the_interval_of_the_gain_holds_the_truth(losses: list[float]) -> None:
    """Studies on rows of the table: the interval of whatever was announced, against the rows' own difference."""
    random, spec = np.random.default_rng(2), FinalsSpec(finalists=3)
    covered, better = 0, 0
    for _ in range(200):
        rows = [0, *random.choice(np.arange(1, len(losses)), TRIALS - 1, replace=False)]
        truth = [losses[row] for row in rows]
        verdict = study(random, truth, spec)
        assert verdict.winner is not None and verdict.gain_low is not None and verdict.gain_high is not None
        gain = truth[0] - truth[verdict.winner]
        covered += verdict.gain_low <= gain <= verdict.gain_high
        better += verdict.word is VerdictWord.BETTER
        assert not (verdict.word is VerdictWord.BETTER and gain <= 0), "a win that was none"
    assert covered >= 180
    assert better >= 20, "there is something to be found, and it is"
