"""What is trained before a long run: which learning rates at which lengths, and what becomes of their losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_loop import FakeLoop
from study_case import make_queue, make_study, result

from autotune.core.errors import UserError
from autotune.core.records import TrainingKind, TrialRecord, TrialStatus
from autotune.engine.assignment import TrainingPlan
from autotune.engine.queue import Queue
from autotune.engine.trial_store import TrialStore
from autotune.promotion import horizon
from autotune.promotion.brackets import BracketRunner
from autotune.store.study_store import long_name, open_fixed

TRIAL = TrialRecord(3, {"lr": 0.01}, TrialStatus.FINISHED, result(loss=2.8))
TOKENS = 16_000
LENGTHS = (1_000, 4_000)


def valley(params: Mapping[str, Any], seed: int, tokens: int) -> float:
    """A loss whose best learning rate is 0.01 at 1,000 tokens and falls with the root of the tokens."""
    best = 0.01 * (1_000 / tokens) ** 0.5
    return 2.8 + 0.1 * math.log(params["lr"] / best) ** 2


class Case:
    """A study of a trainer whose learning rate depends on the length of a run."""

    def __init__(self, folder: Path, *changes: str, trainer: str = "length_fake_trainer") -> None:
        self.study = make_study(folder, f'trainer="{trainer}:train"', *changes)
        self.search = make_queue(folder, self.study)

    def open_queue(self, trial: TrialRecord, tokens: int, run_tokens: int) -> Queue:
        optuna_study = open_fixed(self.search.storage, long_name("night", "bracket", trial.number, tokens))
        store = TrialStore(optuna_study, self.search.storage, self.search.run, self.study)
        return Queue(TrainingPlan(TrainingKind.BRACKET, tokens), store)

    def runner(self, loop: FakeLoop, sigma: float | None = 0.001) -> BracketRunner:
        return BracketRunner(self.study, loop, self.open_queue, sigma)  # type: ignore[arg-type]

    def loop(self, **more: Any) -> FakeLoop:
        return FakeLoop(self.search.run, valley, **more)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def always(seconds: float) -> bool:
    return True


def never(seconds: float) -> bool:
    return False


def test_three_learning_rates_are_trained_at_two_lengths_and_correct_the_rule(case: Case) -> None:
    loop = case.loop()
    promotion = case.runner(loop).promotion(TRIAL, TOKENS, False, always)

    assert [bracket.tokens for bracket in promotion.brackets] == list(LENGTHS)
    assert len(loop.trained) == len(LENGTHS) * len(horizon.FACTORS)
    assert all(loss is not None for bracket in promotion.brackets for loss in bracket.losses)
    # The root of 16 is 4; the published rule alone would divide by 2.4.
    rule = horizon.scaling(1_000, TOKENS).factor
    assert promotion.scaling is not None
    assert promotion.scaling.factor == pytest.approx(0.25, rel=0.1) and promotion.scaling.factor < rule
    (change,) = promotion.changes
    assert (change.path, change.before) == ("lr", 0.01)
    assert change.after == pytest.approx(0.01 * promotion.scaling.factor, rel=0.01)


def test_running_again_trains_nothing_again(case: Case) -> None:
    first = case.runner(case.loop()).promotion(TRIAL, TOKENS, False, always)
    again = case.loop()
    assert case.runner(again).promotion(TRIAL, TOKENS, False, never) == first
    assert again.trained == []


def test_an_interrupted_bracket_is_left_out_and_later_gone_on_with(case: Case) -> None:
    cut = case.loop(most=4)
    part = case.runner(cut).promotion(TRIAL, TOKENS, False, always)
    assert [bracket.tokens for bracket in part.brackets] == [1_000]
    rest = case.loop()
    whole = case.runner(rest).promotion(TRIAL, TOKENS, False, always)
    assert [bracket.tokens for bracket in whole.brackets] == list(LENGTHS)
    assert len(rest.trained) == 2


def test_a_training_that_diverged_has_no_loss_but_ends_its_bracket(case: Case) -> None:
    loop = case.loop()
    loop.loss = lambda params, seed, tokens: math.inf if params["lr"] > 0.015 else valley(params, seed, tokens)
    promotion = case.runner(loop).promotion(TRIAL, TOKENS, False, always)
    assert promotion.brackets[0].losses[-1] is None
    assert promotion.scaling is not None and promotion.scaling.factor < 1


@pytest.mark.parametrize(
    ("tokens", "as_is", "note"),
    [
        (TOKENS, True, "as requested"),
        (1_000, False, ""),
        (4_000, False, "below 8 times a trial's length a check would cost more than the run"),
    ],
)
def test_where_brackets_say_nothing_none_is_trained(case: Case, tokens: int, as_is: bool, note: str) -> None:
    loop = case.loop()
    promotion = case.runner(loop).promotion(TRIAL, tokens, as_is, always)
    assert (promotion.brackets, promotion.note, loop.trained) == ((), note, [])
    assert (promotion.scaling is None) == (as_is or tokens == 1_000)


def test_without_time_the_published_rule_holds(case: Case) -> None:
    loop = case.loop()
    promotion = case.runner(loop).promotion(TRIAL, TOKENS, False, never)
    assert (promotion.note, loop.trained) == ("not checked by shorter runs", [])
    assert promotion.scaling == horizon.scaling(1_000, TOKENS)


def test_after_a_stop_nothing_is_trained(case: Case) -> None:
    loop = case.loop()
    loop.stop.raise_level()
    assert case.runner(loop).promotion(TRIAL, TOKENS, False, always).brackets == ()
    assert loop.trained == []


def test_a_study_may_leave_them_out_and_a_trainer_may_have_no_rules(tmp_path: Path) -> None:
    off = Case(_folder(tmp_path, "off"), "promote.bracket=false")
    promotion = off.runner(off.loop()).promotion(TRIAL, TOKENS, False, always)
    assert promotion.note == "promote.bracket is off" and promotion.scaling is not None

    plain = Case(_folder(tmp_path, "plain"), trainer="fake_trainer")
    promotion = plain.runner(plain.loop()).promotion(TRIAL, TOKENS, False, always)
    assert promotion.scaling is None and "names no settings" in promotion.note
    assert plain.runner(plain.loop()).seconds(1_000, TOKENS) == 0.0


def test_what_fits_into_some_time_keeps_room_for_the_brackets(case: Case) -> None:
    runner = case.runner(case.loop())
    as_it_is = runner.fitting_tokens(TRIAL, 200.0, as_is=True)
    checked = runner.fitting_tokens(TRIAL, 200.0, as_is=False)
    assert 8_000 < checked < as_it_is
    assert runner.seconds(1_000, checked) == pytest.approx(3 * sum(horizon.bracket_tokens(1_000, checked)) / 1_000)
    with pytest.raises(UserError, match="fewer than a trial's 1,000; give more --hours"):
        runner.fitting_tokens(TRIAL, 0.0, as_is=False)


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name
