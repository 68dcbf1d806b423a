"""The plan of a night, by hand-worked numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import counting_trainer
import pytest
from capacity_case import Machine, counting_study

from autotune.core.study_results import Plan
from autotune.core.text import done_by, duration, in_bytes
from autotune.engine.deadline import REPORT_S, Deadline
from autotune.engine.probes import Probe
from autotune.engine.worker import Slot
from autotune.machine import measurement
from autotune.night import opening, own_machine, session
from autotune.night.planner import Survey, describe, make_plan, survey
from autotune.night.search_share import search_seconds
from autotune.night.text_share import train_tokens_override
from autotune.store.study_record import read_study
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study, load
from autotune.study.trainer import load_trainer

PROBE = Probe(tokens_per_s=100.0, eval_s=2.0, evaluations=5, seconds=7.0, tokens=40, peak_bytes=3, facts={})


def spec(**changes: Any) -> StudySpec:
    content = {
        "name": "night",
        "budget": {"tokens": 1_000, "trials": 10},
        "space": {"lr": {"low": 0.1, "high": 1.0}},
        "finals": {"finalists": 2, "select_seeds": 1, "prove_seeds": 4},
    }
    return StudySpec.model_validate(content | changes)


def of_a_trainer(spec: StudySpec, length_rules: Mapping[str, Any] | None = None) -> Study:
    trainer: Any = replace(load_trainer("odd_trainers:with_mapping"), length_rules=length_rules or {})
    return Study(spec, trainer, frozenset(), "")


def plan(study: StudySpec, slots: int = 1, seconds_left: float = float("inf"), power_w: float = 0.0) -> Plan:
    profile: Any = Machine(power_w)
    return make_plan(of_a_trainer(study), PROBE, slots, seconds_left, profile)


def test_seconds_of_a_training_by_hand() -> None:
    assert PROBE.seconds_for(1_000) == 1_000 / 100 + 5 * 2
    assert replace(PROBE, tokens_per_s=0.0).seconds_for(1_000) == 7.0 * 1_000 / 40


def test_without_a_deadline_all_trials_are_planned() -> None:
    planned = plan(spec())
    # 20 s a trial, 10 finals.
    assert (planned.trial_s, planned.trials) == (20, 10)
    assert (planned.search_s, planned.finals_s, planned.full_s) == (200, 200, 0)
    assert planned.total_s == 200 + 200 + REPORT_S


def test_trials_taken_along_are_no_time_to_be_spent() -> None:
    study, profile = spec(), Machine(0.0)
    planned = make_plan(of_a_trainer(study), PROBE, 1, float("inf"), profile, taken=8)  # type: ignore[arg-type]
    assert (planned.trials, planned.most_trials, planned.search_s) == (2, 2, 40)
    assert planned.total_s == 40 + 200 + REPORT_S
    assert describe(planned, study).startswith("plan: up to 2 trials beside the 8 taken along, of 1,000 tokens (20 s")
    # None has to be trained, so the proof alone needs its time.
    planned = make_plan(of_a_trainer(study), PROBE, 1, 176 + REPORT_S + 1, profile, taken=12)  # type: ignore[arg-type]
    assert (planned.trials, planned.search_s, planned.refusal) == (0, 0, "")
    assert describe(planned, study).startswith("plan: no trial beside the 12 taken along, of 1,000 tokens (20 s each)")


def test_the_time_that_is_left_limits_the_trials() -> None:
    """Eight runs of one finalist take 176 s with their margin; a trial takes 20 s and starts with 2 s to spare."""
    assert plan(spec(), seconds_left=176 + REPORT_S + 101).trials == 4
    assert plan(spec(), seconds_left=176 + REPORT_S + 103).trials == 5
    assert plan(spec(), seconds_left=1e6).trials == 10


def test_time_that_is_too_short_for_a_few_trials_is_refused_in_the_plan() -> None:
    assert plan(spec(), seconds_left=176 + REPORT_S + 87).refusal.startswith("the 5 min that are left are too short")
    assert plan(spec(), seconds_left=176 + REPORT_S + 89).refusal == ""
    assert plan(spec(), seconds_left=100).trials == 0


def test_what_is_cut_is_planned_and_told() -> None:
    short = plan(spec(), seconds_left=176 + REPORT_S + 103)
    assert (short.final_runs, short.finals_s) == (8, 8 * 20)
    assert ", 8 final runs: at most " in describe(short, spec())
    assert short.cuts == "time is short, so 1 trial is trained again instead of 2"


def test_trials_that_are_stopped_early_make_room_for_more() -> None:
    """8 whole trials, and of each later one 0.45: in the time of 17 whole ones 8 + 9 / 0.45 = 28 are tried."""
    long = spec(budget={"tokens": 1_000, "trials": 100})
    planned = plan(long, seconds_left=220 + REPORT_S + 17 * 20 + 3)
    assert (planned.trials, planned.most_trials) == (17, 28)
    assert planned.likely_s == pytest.approx(planned.total_s)  # the time goes into more trials
    assert "plan: 17 to 28 trials of 1,000 tokens" in describe(planned, long)
    unlimited = plan(long)
    assert (unlimited.trials, unlimited.most_trials) == (100, 100)
    assert unlimited.likely_s == pytest.approx((8 + 0.45 * 92) * 20 + 200 + REPORT_S)
    unpruned = plan(spec(budget={"tokens": 1_000, "trials": 100}, pruner={"name": "none"}))
    assert unpruned.likely_s == unpruned.total_s


def test_two_devices_share_the_work_but_not_the_full_run() -> None:
    study = spec(promote={"automatic": True, "tokens": 8_000})
    planned = plan(study, slots=2)
    # 8,000 tokens at 100 a second, five evaluations of 2 s, and 15 s for the export.
    assert (planned.search_s, planned.finals_s, planned.full_s) == (100, 100, 90 + 15)
    assert plan(study, slots=2, seconds_left=88 + 1.1 * 90 + 15 + REPORT_S + 33).trials == 3


def test_shorter_runs_before_the_full_run_are_planned_for() -> None:
    """Three of a trial's length and three of the root of 8 times that, 2,828 tokens; each has five evaluations."""
    machine: Any = Machine()

    def full_s(tokens: int, train_tokens: int = 1_000, **promote: Any) -> float:
        study = spec(promote={"automatic": True, "tokens": tokens} | promote)
        rescaled = of_a_trainer(study, length_rules={"lr": "learning_rate"})
        probe = replace(PROBE, facts={"train_tokens": train_tokens})
        return make_plan(rescaled, probe, 1, float("inf"), machine).full_s

    assert full_s(8_000) == pytest.approx(3 * (20 + 28.28 + 10) + 90 + 15)
    assert full_s(4_000) == 50 + 15 and full_s(8_000, bracket=False) == 90 + 15
    assert full_s(8_000, train_tokens=8_000) == 90 + 15


NIGHT: Any = {"finals": {"finalists": 1, "prove_seeds": 4}, "promote": {"automatic": True}}
FIXED_S = 1.1 * 8 * 20 + 15 + REPORT_S  # eight finals with a margin, the export and the report


def test_a_full_run_of_no_given_length_takes_what_the_search_leaves() -> None:
    """Of 4,000 s beside the finals, which are 200 trainings, the search takes 242 s."""
    study = spec(**NIGHT)
    planned = plan(study, seconds_left=FIXED_S + 4_000)
    searched_s = search_seconds(4_000, 20)
    assert searched_s == pytest.approx(242, abs=1)
    assert planned.run_tokens == int(((4_000 - searched_s) / 1.03 - 10) * 100)  # 100 a second, and five evaluations
    assert planned.trials == 10 and (searched_s - 2) / 20 > 10
    assert f"a full run of {planned.run_tokens:,} tokens in the time that the search leaves" in describe(planned, study)


def test_what_the_finals_are_spared_is_the_full_runs() -> None:
    """Two settings take up to 30 trainings to tell apart, more than half of what search and finals have."""
    many: Any = NIGHT | {"budget": {"tokens": 1_000, "trials": 200}}
    space = {"lr": {"low": 0.1, "high": 1.0}, "gain": {"low": 0.1, "high": 1.0}}
    apart = plan(
        spec(**many | {"finals": NIGHT["finals"] | {"attribute_seeds": 10}, "space": space}), seconds_left=4_500
    )
    assert apart.cuts == "time is short, so which change gave what is not found out"
    together = plan(spec(**many), seconds_left=4_500)
    assert (apart.run_tokens, apart.trials) == (together.run_tokens, together.trials)


def test_a_full_run_has_the_length_that_the_study_file_gives_or_that_of_eight_trials_without_a_deadline() -> None:
    named = spec(**NIGHT | {"promote": {"automatic": True, "tokens": 9_000}})
    planned = plan(named, seconds_left=3_000)
    assert planned.run_tokens == 0 and "a full run of 9,000 tokens:" in describe(planned, named)

    unlimited = plan(spec(**NIGHT))
    assert unlimited.run_tokens == 0 and "a full run of 8,000 tokens:" in describe(unlimited, spec(**NIGHT))
    by_hand = plan(spec(), seconds_left=3_000)
    assert (by_hand.run_tokens, by_hand.full_s) == (0, 0)


def test_a_short_night_keeps_a_few_trials_and_less_than_a_trial_is_no_full_run() -> None:
    short = plan(spec(**NIGHT), seconds_left=FIXED_S + 10 + 1.1 * 8 * 20 + 1.03 * 30.001)
    assert (short.run_tokens, short.trials, short.refusal) == (2_000, 9, "")
    shorter = plan(spec(**NIGHT), seconds_left=FIXED_S + 1.1 * 8 * 20 + 9)
    assert shorter.run_tokens == 0 and "too short" in shorter.refusal


def test_energy_is_power_times_time() -> None:
    planned = plan(spec(), slots=2, power_w=70.0)
    assert planned.energy_kwh == pytest.approx(70 * 2 * (200 + REPORT_S) / 3_600_000)


@pytest.mark.parametrize(
    ("base", "match", "epochs"),
    [({"data": {"train_tokens": 0}}, True, 4.0), ({"data": {"train_tokens": 0}}, False, 0.0), ({}, True, 0.0)],
)
def test_trials_read_their_text_as_often_as_the_full_run(base: dict[str, Any], match: bool, epochs: float) -> None:
    """8,000 tokens of a text of 2,000: trials of 1,000 tokens get 250 of them."""
    study = of_a_trainer(spec(base=base, budget={"tokens": 1_000, "match_epochs": match}))
    profile: Any = Machine()
    planned = make_plan(study, replace(PROBE, facts={"train_tokens": 2_000}), 1, float("inf"), profile)
    assert planned.epochs == epochs
    assert train_tokens_override(study, 1_000, epochs) == ({"data.train_tokens": 250} if epochs else {})
    assert ("each reads 250 tokens of text" in describe(planned, study.spec)) == bool(epochs)
    assert make_plan(study, replace(PROBE, facts={"train_tokens": 8_000}), 1, 1e6, profile).epochs == 0


def test_a_trainer_that_takes_no_time_does_not_break_the_plan() -> None:
    profile: Any = Machine()
    instant = replace(PROBE, tokens_per_s=0.0, seconds=0.0)
    assert make_plan(of_a_trainer(spec()), instant, 1, 1_000.0, profile).trials == 10


def test_in_words() -> None:
    planned = replace(plan(spec(promote={"automatic": True}), power_w=36_000.0), max_pass_sequences=48)
    assert describe(planned, spec(promote={"automatic": True})) == (
        "plan: up to 10 trials of 1,000 tokens (20 s each), 10 final runs, a full run of 8,000 tokens: "
        "at most 9 min, 5.2 kWh, 6 MB of disk; 100 tokens/s; up to 48 sequences at a time"
    )
    assert describe(replace(plan(spec()), tokens_per_s=0.0), spec()) == (
        "plan: up to 10 trials of 1,000 tokens (20 s each), 10 final runs: at most 7 min, 6 MB of disk"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (720, "12 min"),
        (5_999, "100 min"),
        (27_000, "7.5 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_end_of_the_plan_is_named_with_its_day_when_it_is_another() -> None:
    night = replace(plan(spec()), total_s=8 * 3600.0)
    assert done_by(night.total_s, datetime(2026, 11, 24, 13, 30)) == "done by about 21:30"
    assert done_by(night.total_s, datetime(2026, 11, 24, 23, 0)) == "done by about 07:00 on Wednesday"
    assert done_by(night.total_s, datetime(2026, 11, 24, 16, 30), 7 * 3600.0) == (
        "done between about 23:30 and 00:30 on Wednesday: trials that lag behind are stopped early"
    )
    assert done_by(night.total_s, datetime(2026, 11, 24, 23, 0), 7 * 3600.0) == (
        "done between about 06:00 and 07:00 on Wednesday: trials that lag behind are stopped early"
    )
    assert done_by(1_000.0, datetime(2026, 11, 24, 16, 30), 999.0) == "done by about 16:46"


@pytest.mark.parametrize(("num_bytes", "words"), [(6.4e6, "6 MB"), (999e6, "999 MB"), (1.26e9, "1.3 GB")])
def test_sizes(num_bytes: float, words: str) -> None:
    assert in_bytes(num_bytes) == words


def test_a_survey_says_what_does_not_fit_and_what_the_disk_lacks(tmp_path: Path) -> None:
    counting_study(tmp_path)
    counting = load(tmp_path / "counting.toml", ["promote.automatic=true", "budget.trials=2"])
    machine: Any = Machine(device="cuda", memory_bytes=120_000)
    surveyed = survey(counting, machine, [Slot("cpu")], Deadline())
    assert surveyed.left == {"model.experts": (2, 4)} and surveyed.model is not None
    assert surveyed.plan.max_pass_sequences > 0
    # 2 trials and their finals of 10 evaluations, and a full run of 5 GB.
    runs = 2 + counting.spec.finals.runs + counting.spec.attributing_runs()
    assert surveyed.plan.disk_bytes == 6e6 + runs * 10 * 3_500 + 5e9
    now = datetime(2026, 11, 24, 16, 30)
    roomy = [line for _, line in surveyed.lines(counting.spec, machine, 10**10, now)]
    assert roomy[0].startswith("model.experts is limited to 2, 4") and roomy[1].startswith("plan: up to 2 trials")
    assert roomy[2].startswith("done by about 16:3") and len(roomy) == 3
    tight = [line for _, line in surveyed.lines(counting.spec, machine, 5 * 10**9, now)]
    assert tight[2].startswith("only 5.0 GB of disk space is free, of which 500 MB stay unused: make room")


def test_a_survey_without_a_gpu_fits_no_costs(tmp_path: Path) -> None:
    machine: Any = Machine()
    surveyed = survey(counting_study(tmp_path), machine, [Slot("cpu")], Deadline())
    assert surveyed == Survey(surveyed.plan, surveyed.baseline) and surveyed.plan.disk_bytes < 1e9


def test_search_finals_and_full_run_have_the_chosen_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first trial of the first start, which is drawn after the plan."""
    counting_study(tmp_path)
    counting = load(tmp_path / "counting.toml", ["budget.trials=2", "finals={select_seeds=1, prove_seeds=2}"])
    profile = replace(measurement.profile(device="cpu"), device="cuda", memory_bytes=10**9)
    monkeypatch.setattr(own_machine, "visible_devices", lambda: ["one"])
    monkeypatch.setattr(own_machine, "profile", lambda *_, **__: profile)
    monkeypatch.setattr(opening, "slots_of", lambda _: [Slot("cpu")])
    running = session.Session(counting, session.Options(tmp_path / "runs"))
    assert running.work() == 0
    record = read_study(tmp_path / "runs" / "counting")
    configs = [trial.result.config for trial in (*record.trials, *record.finals) if trial.result is not None]
    assert len(configs) >= 2
    assert {config["system"]["max_pass_sequences"] for config in configs} == {32}


def test_equal_seconds_by_the_cost_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the FLOPs are predicted, not probed: the trainer's own formula gives the same budgets."""
    counting_study(tmp_path)
    changes = [
        'space={"model.slowness" = {choices=[1, 10]}, "optim.grad_accum_steps" = {low=1, high=4}}',
        'objective="loss_at_equal_seconds"',
        'sampler={name="random"}',
        "budget.trials=8",
        "finals={select_seeds=1, prove_seeds=2, max_seeds=2}",
    ]
    counting = load(tmp_path / "counting.toml", changes)
    profile = replace(measurement.profile(device="cpu"), device="cuda", memory_bytes=10**9)
    monkeypatch.setattr(own_machine, "visible_devices", lambda: ["one"])
    monkeypatch.setattr(own_machine, "profile", lambda *_, **__: profile)
    monkeypatch.setattr(opening, "slots_of", lambda _: [Slot("cpu")])
    running = session.Session(counting, session.Options(tmp_path / "runs"))
    assert running.work() == 0
    record = read_study(tmp_path / "runs" / "counting")
    assert record.baseline is not None and record.baseline.budget_tokens == 100_000

    def speed(config: Any) -> float:
        built = counting_trainer.Config.model_validate(config)
        return counting_trainer.counts(built, {})["step_tokens"] / counting_trainer.step_s(built)

    assert record.baseline.result is not None
    baseline = speed(record.baseline.result.config)
    for trial in (*record.trials, *record.finals):
        assert trial.result is not None
        expected = 100_000 * speed(trial.result.config) / baseline
        assert trial.budget_tokens == trial.result.points[-1].tokens_seen == pytest.approx(expected, rel=2e-3)
    assert {trial.params["model.slowness"] for trial in record.trials} == {1, 10}
    line = next(event["message"] for event in record.events if event["kind"] == "plan")
    assert line.startswith("plan: up to 8 trials of the time that the default takes for 100,000 tokens (")


def test_no_more_trials_are_promised_than_there_are_settings() -> None:
    small = spec(space={"layers": {"low": 1, "high": 3}}, base={"layers": 2})
    assert (plan(small).trials, plan(small).most_trials) == (3, 3)
    assert plan(small, seconds_left=176 + REPORT_S + 73).refusal == ""
    told = [line for _, line in Survey(plan(small), PROBE).lines(small, Machine(0.0), 10**12, datetime.now())]  # type: ignore[arg-type]
    assert "the space has 3 settings, so there are no more than as many trials (budget.trials)" in told

    widens = spec(space={"layers": {"low": 1, "high": 3, "limits": [1, 5]}}, base={"layers": 2})
    assert plan(widens).trials == 5
    between = spec(space={"lr": {"low": 0.1, "high": 0.3, "step": 0.1}}, base={"lr": 0.15})
    assert plan(between).trials == 4
    assert plan(spec(budget={"tokens": 1_000, "trials": 2}, space={"layers": {"low": 1, "high": 3}})).trials == 2
