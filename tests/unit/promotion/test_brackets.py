"""What is trained before a long run: which learning rates and batches at which lengths, and what becomes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_loop import FakeLoop
from study_case import make_queue, make_study, result

from autotune.core.attributes import Snapshot, StudyAttributes
from autotune.core.config_paths import with_paths
from autotune.core.errors import UserError
from autotune.core.promotion_results import Scaling
from autotune.core.records import EvalPoint, TrainingKind, TrialRecord, TrialResult, TrialStatus
from autotune.core.study_results import Noise
from autotune.engine.assignment import TrainingPlan
from autotune.engine.queue import Queue
from autotune.engine.trial_store import TrialStore
from autotune.promotion.brackets import BracketRunner
from autotune.promotion.horizon import FACTORS, Horizon
from autotune.promotion.run_cost import run_cost
from autotune.promotion.run_length import Check
from autotune.store.study_record import StudyRecord
from autotune.store.study_store import long_name, open_fixed

TRIAL = TrialRecord(3, {"lr": 0.01}, TrialStatus.FINISHED, result(loss=2.8))
TOKENS = 16_000
LENGTHS = (1_000, 4_000)
RULES: Any = {"lr": "learning_rate"}


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

    def runner(self, loop: FakeLoop, train_tokens: int = 1_000, finals: Sequence[TrialRecord] = ()) -> BracketRunner:
        """One whose runs read their text more than once, unless there is more of it."""
        attributes = StudyAttributes(Snapshot())
        attributes.noise = Noise(0.001, 4, 2.8, 16, 0.002)
        attributes.length_rules = dict(self.study.trainer.length_rules)
        attributes.probe_facts = {"train_tokens": train_tokens}
        record = StudyRecord(self.search.run, self.study.spec, (), tuple(finals), attributes=attributes)
        return BracketRunner(self.study, loop, self.open_queue, record, train_tokens)  # type: ignore[arg-type]

    def loop(self, loss: Any = valley, **more: Any) -> FakeLoop:
        return FakeLoop(self.search.run, loss, **more)

    def law(self, tokens: int, batch: float = 1.0) -> Scaling:
        """What is known of learning rates before anything is trained."""
        horizon = Horizon(with_paths(self.study.spec.base, TRIAL.params), RULES, 1_000, repeats=True)
        return horizon.rate(tokens, batch)


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
    assert len(loop.trained) == len(LENGTHS) * len(FACTORS)
    assert all(loss is not None for bracket in promotion.brackets for loss in bracket.losses)
    assert promotion.bracket_s == len(FACTORS) * (1 + 4)
    # The root of 16 is 4; what is known beforehand would divide by 2.3.
    rule = case.law(TOKENS).factor
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
        (4_000, False, "a check by shorter runs would cost more than it is worth"),
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
    assert promotion.scaling == case.law(TOKENS)


def test_after_a_stop_nothing_is_trained(case: Case) -> None:
    loop = case.loop()
    loop.stop.raise_level()
    assert case.runner(loop).promotion(TRIAL, TOKENS, False, always).brackets == ()
    assert loop.trained == []


def test_a_study_may_leave_them_out_and_a_trainer_may_have_no_rules(tmp_path: Path) -> None:
    off = Case(_folder(tmp_path, "off"), "promote.bracket=false")
    promotion = off.runner(off.loop()).promotion(TRIAL, TOKENS, False, always)
    assert promotion.note == "not checked by shorter runs, as the study file says" and promotion.scaling is not None

    plain = Case(_folder(tmp_path, "plain"), trainer="fake_trainer")
    promotion = plain.runner(plain.loop()).promotion(TRIAL, TOKENS, False, always)
    assert promotion.scaling is None and "names no settings" in promotion.note
    assert plain.runner(plain.loop()).seconds(TRIAL, TOKENS) == 0.0


def test_what_fits_into_some_time_keeps_room_for_the_brackets(case: Case) -> None:
    runner = case.runner(case.loop(), train_tokens=400_000)
    as_it_is = runner.fitting_tokens(TRIAL, 3_000.0, as_is=True)
    checked = runner.fitting_tokens(TRIAL, 3_000.0, as_is=False)
    assert 0.9 * as_it_is < checked < as_it_is
    lengths = Check(1, repeats=True).lengths(1_000, checked)
    assert runner.seconds(TRIAL, checked) == pytest.approx(3 * sum(lengths) / 1_000)
    # A run at twice the speed of trials; its brackets are not.
    assert runner.fitting_tokens(TRIAL, 3_000.0, True, token_s=0.0005) == pytest.approx(2 * as_it_is, abs=2)
    fast = runner.fitting_tokens(TRIAL, 3_000.0, False, token_s=0.0005)
    # The run's end can be moved, those of its brackets cannot; 35 s are the export's and the report's.
    assert 1.03 * 0.0005 * fast + 1.1 * runner.seconds(TRIAL, fast) == pytest.approx(3_000 - 35, rel=0.001)
    # One that reads half as many tokens in the time of the default reads half as many later, too.
    slow = replace(TRIAL, budget_tokens=500)
    assert runner.fitting_tokens(slow, 3_000.0, as_is=True) == pytest.approx(as_it_is / 2, abs=2)
    assert "about 60 s" in runner.cost(TRIAL, 120_000, True, token_s=0.0005)
    with pytest.raises(UserError, match="fewer than a trial's 1,000; give more --hours"):
        runner.fitting_tokens(TRIAL, 0.0, as_is=False)


def test_what_is_said_beforehand_is_what_the_next_command_was_said_to_take(case: Case) -> None:
    """Trainings of 2 s for 1,000 tokens; 16,000 tokens take 32 s after three trainings of 1,000 and three of 4,000."""
    runner = case.runner(case.loop())
    trials = [TrialRecord(number, {"lr": 0.01}, TrialStatus.FINISHED, _of_two_seconds(number)) for number in range(3)]
    record = replace(runner.record, trials=tuple(trials))
    cost = run_cost(record, trials[2], TOKENS)
    assert cost is not None and cost.seconds == pytest.approx(32 + 3 * 2 + 3 * 8)

    said = replace(runner, record=record).cost(trials[2], TOKENS, as_is=False)
    assert "after shorter ones for its settings (48% of the time): about 62 s, " in said


def _of_two_seconds(number: int) -> TrialResult:
    points = (EvalPoint(500, 3.0), EvalPoint(1_000, 2.8))
    return TrialResult(TrialStatus.FINISHED, points=points, seconds=2.0, started_at=f"2026-01-05T21:0{number}:00")


# --- the batch ---

BATCH_TRIAL = TrialRecord(3, {"lr": 0.01, "batch": 4}, TrialStatus.FINISHED, result(loss=2.8))


def two_valleys(params: Mapping[str, Any], seed: int, tokens: int) -> float:
    """A loss whose best batch is 4 at 1,000 tokens and stays, while its best learning rate follows it and falls."""
    batch, longer = params["batch"] / 4, tokens / 1_000
    best = 0.01 * batch**0.7 * longer**-0.5
    return 2.8 + 0.1 * math.log(params["lr"] / best) ** 2 + 0.1 * math.log(batch) ** 2


@pytest.fixture
def both(tmp_path: Path) -> Case:
    return Case(tmp_path, "space.batch={low = 1, high = 16, log = true}", trainer="batch_fake_trainer")


def test_batches_are_tried_first_and_learning_rates_beside_the_best_of_them(both: Case) -> None:
    loop = both.loop(two_valleys)
    promotion = both.runner(loop).promotion(BATCH_TRIAL, TOKENS, False, always)

    assert [(each.tokens, each.setting) for each in promotion.brackets] == [
        (length, setting) for length in LENGTHS for setting in ("batch", "learning_rate")
    ]
    # 4 to the power of 0.55 is expected at 4,000 tokens, which is 9 sequences instead of 4. Half of it is the lowest,
    # so that a quarter is tried, and learning rates beside the half.
    batches, rates = promotion.brackets[2:]
    assert [4 * factor for factor in batches.factors] == [2, 4, 9, 18]
    assert rates.batch == 1.0
    assert promotion.batch is not None and promotion.batch.factor == pytest.approx(1.0, abs=0.3)
    assert promotion.scaling is not None and promotion.scaling.factor == pytest.approx(0.25, rel=0.25)


def test_an_end_that_is_lowest_is_left_behind_twice_at_most(case: Case) -> None:
    """The best learning rate is a hundredth of the trial's at each length."""

    def far(params: Mapping[str, Any], seed: int, tokens: int) -> float:
        return 2.8 + 0.1 * math.log(params["lr"] / 0.0001) ** 2

    loop = case.loop(far)
    promotion = case.runner(loop).promotion(TRIAL, TOKENS, False, always)
    assert promotion.brackets[0].factors == (0.125, 0.25, 0.5, 1.0, 2.0)
    again = case.loop(far)
    assert case.runner(again).promotion(TRIAL, TOKENS, False, never) == promotion
    assert again.trained == []


def test_without_time_for_what_is_beyond_the_first_trainings_count(case: Case) -> None:
    """The lowest loss is at an end, and the loop stops after the first three."""
    promotion = case.runner(case.loop(most=3)).promotion(TRIAL, TOKENS, False, always)
    assert promotion.brackets[0].factors == FACTORS


def test_the_noise_is_that_of_the_promoted_trial_where_its_seeds_say_it(case: Case) -> None:
    runs = [
        TrialRecord(number, {}, TrialStatus.FINISHED, result(loss=loss), arm=3, stage="prove")
        for number, loss in enumerate((2.7, 2.8, 2.9))
    ]
    assert case.runner(case.loop(), finals=runs).sigma(TRIAL) == pytest.approx(0.1)
    assert case.runner(case.loop(), finals=runs[:2]).sigma(TRIAL) == 0.001


def test_where_text_is_read_once_the_laws_are_trusted(both: Case) -> None:
    loop = both.loop(two_valleys)
    promotion = both.runner(loop, train_tokens=10**6).promotion(BATCH_TRIAL, TOKENS, False, always)
    assert (promotion.brackets, loop.trained) == ((), [])
    assert promotion.note == "a check by shorter runs would cost more than it is worth"
    # 16 to the power of 0.55 is 4.59; of whole sequences it is 18 instead of 4.
    changed = {change.path: change.after for change in promotion.changes}
    assert changed["batch"] == 18 and promotion.batch is not None and promotion.batch.factor == 4.5
    assert promotion.batch_worth == (pytest.approx(0.011, abs=1e-3), pytest.approx(0.059, abs=1e-3))


def test_a_batch_that_was_not_searched_stays(tmp_path: Path) -> None:
    case = Case(tmp_path, trainer="batch_fake_trainer")
    promotion = case.runner(case.loop()).promotion(TRIAL, 4_000, False, always)
    assert promotion.batch is None and [change.path for change in promotion.changes] == ["lr"]


def test_what_did_not_fit_in_a_bracket_is_not_chosen(both: Case) -> None:
    """At 1,000 tokens twice the batch is tried."""

    def loss(params: Mapping[str, Any], seed: int, tokens: int) -> float | TrialStatus:
        return TrialStatus.OUT_OF_MEMORY if params["batch"] > 6 else two_valleys(params, seed, tokens)

    promotion = both.runner(both.loop(loss)).promotion(BATCH_TRIAL, TOKENS, False, always)
    assert promotion.brackets[0].losses[-1] is None
    assert {change.path: change.after for change in promotion.changes}.get("batch", 4) <= 6


def test_a_full_run_that_did_not_fit_is_given_less(both: Case) -> None:
    runner = both.runner(both.loop(two_valleys), train_tokens=10**6)
    promotion = runner.promotion(BATCH_TRIAL, TOKENS, False, always, most_batch=2.25)
    assert {change.path: change.after for change in promotion.changes}["batch"] == 9


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name
