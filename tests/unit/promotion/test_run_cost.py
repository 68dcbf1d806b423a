"""What a full run takes, worked out by hand from what is stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import study_builder
from study_builder import START

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus
from autotune.promotion.next_step import next_step
from autotune.promotion.run_cost import RunCost, TrainingPace, run_cost
from autotune.store.study_record import StudyRecord

RULES = {"optim.muon_lr": "learning_rate", "optim.grad_accum_steps": "batch"}


def training(number: int, seconds: float, *, speed: float = 100.0, eval_s: float = 0.5, **more: Any) -> TrialRecord:
    """A training of 1,000 tokens with four evaluations, begun in the order of its number."""
    points = tuple(
        EvalPoint(tokens, 5.0 - tokens / 1e4, {"tokens_per_s": speed, "eval_s": eval_s})
        for tokens in (250, 500, 750, 1000)
    )
    started = (START + timedelta(seconds=number)).isoformat()
    result = TrialResult(TrialStatus.FINISHED, "", points, started_at=started, seconds=seconds, device="cuda:0")
    role = "search" if number else "baseline"
    params = study_builder.settings(0.02, 0.0, 8, 1)
    return TrialRecord(number, params, TrialStatus.FINISHED, result, role=role, **more)


def night(*trials: TrialRecord, finals: tuple[TrialRecord, ...] = (), **stored: Any) -> StudyRecord:
    verdict = study_builder.verdict("no clear gain", winner=1)
    record = study_builder.study(trials=trials, finals=finals, verdict=verdict)
    return study_builder.with_attributes(record, length_rules=RULES, **stored)


def test_the_first_training_of_a_device_which_compiles_does_not_count() -> None:
    """1,000 tokens at 100 a second, four evaluations of half a second, and one second beside: 13 s, not 400."""
    slow = training(0, 400.0, speed=2.6)
    record = night(slow, *(training(number, 13.0) for number in (1, 2, 3)))
    assert TrainingPace.of(record, slow) == TrainingPace(0.01, 0.5, pytest.approx(1.0), 4)

    alone = night(slow)
    assert TrainingPace.of(alone, slow).seconds(1000) == pytest.approx(400.0)  # type: ignore[union-attr]
    assert TrainingPace.of(night(), slow) is None


def test_a_longer_run_has_as_many_evaluations_as_trials_up_to_a_hundred() -> None:
    record = night(*(training(number, 13.0) for number in range(4)))
    # 8,000 tokens: 80 s, 32 evaluations, 1 s; and 64 times a trial's length has 100 of them, not 256.
    assert run_cost(record, record.trials[0], 8_000) == RunCost(pytest.approx(80 + 16 + 1))
    assert run_cost(record, record.trials[0], 64_000) == RunCost(pytest.approx(640 + 50 + 1))


def test_shorter_runs_before_it_count_where_text_repeats() -> None:
    """Sixteen times a trial's length: 5 trainings of 1,000 tokens, 13 s each, and 5 of 4,000, 43 s each."""
    record = night(*(training(number, 13.0) for number in range(4)), probe_facts={"train_tokens": 2_000})
    cost = run_cost(record, record.trials[0], 16_000)
    assert cost == RunCost(pytest.approx(160 + 32 + 1), pytest.approx(5 * 13 + 5 * 43))
    assert run_cost(record, record.trials[0], 16_000, as_is=True) == RunCost(pytest.approx(193))
    assert run_cost(record, record.trials[0], 16_000, token_s=0.02) == RunCost(320, pytest.approx(280))


def test_a_study_of_an_earlier_version_knows_its_rules_by_its_promotion() -> None:
    scaling = {"factor": 1.0, "low": 0.5, "high": 2.0, "exponent": 0.0, "exponent_sd": 0.1}
    promotion = {
        "trial": 0, "trial_tokens": 1000, "tokens": 16_000, "scaling": scaling, "changes": [], "brackets": [],
        "note": "", "repeats": "",
    }  # fmt: skip
    stored = {"probe_facts": {"train_tokens": 2_000}, "length_rules": None, "promotion": promotion}
    record = study_builder.with_attributes(night(*(training(number, 13.0) for number in range(4))), **stored)
    assert run_cost(record, record.trials[0], 16_000) == RunCost(pytest.approx(193), pytest.approx(3 * (13 + 43)))


def test_a_finished_full_run_tells_its_own_pace() -> None:
    """It read 200 tokens a second, as its batch was larger; the shorter runs are as slow as trials."""
    points = [{"tokens_seen": at, "val_loss": 4.0, "tokens_per_s": 200.0} for at in (8_000, 16_000)]
    full = {"status": "finished", "tokens": 16_000, "tokens_seen": 16_000, "trial": 0, "points": points}
    record = night(*(training(number, 13.0) for number in range(4)), full=full)
    assert run_cost(record, record.trials[0], 32_000) == RunCost(pytest.approx(160 + 50 + 1))
    step = next_step(record)
    assert step.command == "autotune promote night --tokens 32000"
    assert step.expected is not None and step.expected.seconds == pytest.approx(211)

    # Of its 100 s, 80 were tokens and 14 evaluations; 6 were checkpoints and its export.
    told = [{**point, "eval_s": 7.0} for point in points]
    record = night(*(training(number, 13.0) for number in range(4)), full={**full, "points": told, "seconds": 100.0})
    assert run_cost(record, record.trials[0], 32_000) == RunCost(pytest.approx(160 + 700 + 6))

    # A run that told no speeds may have been resumed: its seconds are those of its latest attempt.
    silent = [{key: value for key, value in point.items() if key != "tokens_per_s"} for point in points]
    record = night(*(training(number, 13.0) for number in range(4)), full={**full, "points": silent, "seconds": 1.0})
    assert run_cost(record, record.trials[0], 32_000) == RunCost(pytest.approx(320 + 50 + 1))


def test_the_promoted_settings_count_alone_where_they_were_trained_again() -> None:
    """Other settings make other models: trial 1 is three times as slow as the others."""
    others = [training(number, 13.0) for number in (0, 2, 3, 4, 5)]
    again = tuple(training(10 + number, 33.0, speed=1000 / 30, arm=1) for number in range(2))
    own = training(1, 33.0, speed=1000 / 30)
    record = night(*others[:1], own, *others[1:], finals=again)
    assert TrainingPace.of(record, own) == TrainingPace(pytest.approx(0.03), 0.5, pytest.approx(1.0), 4)
    assert TrainingPace.of(replace(record, finals=()), own) == TrainingPace(0.01, 0.5, pytest.approx(1.0), 4)


def test_a_trial_of_several_seeds_took_their_sum() -> None:
    spec = study_builder.spec(budget={"tokens": 1000, "trials": 12, "seeds": 3}, pruner={"name": "none"})
    record = replace(night(*(training(number, 39.0) for number in range(4))), spec=spec)
    pace = TrainingPace.of(record, record.trials[0])
    assert pace is not None and pace.seconds(1000) == pytest.approx(13.0)
